//! The documents are part of the program: what they promise is there.
use clawbroker::domain::error::ErrorCode;

fn read(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_error_code_has_a_page_that_names_it_and_its_status() {
    let index = read("docs/errors/README.md");
    for (_, name, status) in ErrorCode::ALL {
        let page = read(&format!("docs/errors/{name}.md"));
        assert!(page.contains(name), "docs/errors/{name}.md");
        // These come on sockets, where there is no status.
        let on_sockets = ["bad_frame", "frame_too_large", "scope_missing"].contains(name);
        assert!(on_sockets || page.contains(&status.to_string()), "docs/errors/{name}.md tells the status");
        assert!(index.contains(&format!("{name}.md")), "the index leads to {name}");
    }
}

#[test]
fn no_page_is_left_of_a_code_that_is_gone() {
    let folder = format!("{}/docs/errors", env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        let code = name.trim_end_matches(".md");
        let known = code == "README" || ErrorCode::ALL.iter().any(|(_, known, _)| *known == code);
        assert!(known, "docs/errors/{name}");
    }
}

#[test]
fn every_setting_is_documented() {
    let settings = read("docs/settings.md");
    let mut section = String::new();
    for line in read("config/default.toml").lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ")
            && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
        {
            assert!(settings.contains(key), "{section}.{key} is missing in docs/settings.md");
        }
    }
}

#[test]
fn documents_lead_to_files_that_exist() {
    let root = env!("CARGO_MANIFEST_DIR");
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "docs/rest.md",
        "docs/websocket.md",
        "docs/gateways.md",
        "docs/mailbox.md",
        "docs/channels.md",
        "docs/operations.md",
    ] {
        let text = read(document);
        let folder = std::path::Path::new(root).join(document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with('/') {
                continue;
            }
            let path = folder.parent().expect("a folder").join(target);
            assert!(path.exists(), "{document} leads to {target}");
        }
    }
}
