//! What channels and people are called on the command line: an id, or a name that only one has.
use super::failure::Failure;

/// Chooses the one of this id, else the only one of this name. `what` they are is also the command that lists them.
pub(super) fn chosen<T>(
    what: &str,
    named: &str,
    mut all: Vec<T>,
    id_and_name: impl Fn(&T) -> (&str, &str),
) -> Result<T, Failure> {
    if let Some(place) = all.iter().position(|one| id_and_name(one).0 == named) {
        return Ok(all.swap_remove(place));
    }
    all.retain(|one| id_and_name(one).1 == named);
    let first = all.pop().ok_or_else(|| {
        Failure::new(format!("there is no {what} `{named}`; `clawbroker {what} list` shows those that there are"))
    })?;
    if all.is_empty() {
        return Ok(first);
    }
    Err(Failure::new(format!(
        "several {what}s are called `{named}`: name one by its id, which `clawbroker {what} list` shows"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_goes_before_a_name_and_a_name_must_be_the_only_one() {
        let all = || vec![("1", "Eve"), ("2", "Sam"), ("3", "Sam"), ("4", "1")];
        let id = |named: &str| chosen("member", named, all(), |one| *one).map(|one| one.0);
        for (named, expected) in [("1", "1"), ("3", "3"), ("Eve", "1")] {
            assert_eq!(id(named).expect(named), expected);
        }
        assert!(id("Sam").expect_err("two").to_string().starts_with("several members are called `Sam`"));
        assert!(id("eve").expect_err("none").to_string().starts_with("there is no member `eve`; `clawbroker member"));
    }
}
