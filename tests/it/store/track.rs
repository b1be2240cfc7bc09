//! Sessions of a gateway of which all are kept: tracked unless they were deleted here.
use clawbroker::domain::user::Role;
use clawbroker::store::conversations::DeleteConversation;
use clawbroker::store::track::TrackSession;
use clawbroker::store::upstream::NoteContact;

use crate::harness::{TestStore, session_name};

on_both_databases!(a_session_of_others_is_tracked_once, a_deleted_session_is_not_tracked_until_a_person_names_it);

async fn a_session_of_others_is_tracked_once(store: TestStore) {
    let gateway = store.gateway("gw").await;
    let track = || TrackSession { name: session_name(&gateway, "agent:main:theirs") };
    let tracked = store.write(track()).await.unwrap().expect("a new session");
    assert_eq!((tracked.key.as_str(), tracked.owner_id), ("agent:main:theirs", None));
    assert_eq!(store.write(track()).await.unwrap().map(|again| again.id), Some(tracked.id));
    // Its log may never have been read: it stays deleted all the same.
    store.write(DeleteConversation { id: tracked.id }).await.unwrap();
    assert!(store.write(track()).await.unwrap().is_none());
}

async fn a_deleted_session_is_not_tracked_until_a_person_names_it(store: TestStore) {
    let gateway = store.gateway("gw").await;
    let caller = store.user("ann", Role::Member).await;
    for (key, contacted) in [("known", true), ("new", false), ("agent:main:whole", false)] {
        let canonical = format!("agent:main:{}", key.trim_start_matches("agent:main:"));
        let track = || TrackSession { name: session_name(&gateway, &canonical) };
        let conversation = store.session(&caller, &gateway, key).await;
        if contacted {
            let note = NoteContact {
                conversation_id: conversation.id,
                canonical_key: Some(canonical.clone()),
                session_id: None,
                boundary_seq: 0,
                import_below: None,
            };
            store.write(note).await.unwrap();
        }
        store.write(DeleteConversation { id: conversation.id }).await.unwrap();
        assert!(store.write(track()).await.unwrap().is_none(), "{key}");
        let anew = store.session(&caller, &gateway, key).await;
        assert_ne!(anew.id, conversation.id);
        assert_eq!(anew.owner_id, Some(caller.user_id));
    }
}
