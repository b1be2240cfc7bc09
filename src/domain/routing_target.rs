//! Whom a message is for: which of those that its sender may write to is meant by a name.
//!
//! Pure: the caller looks the candidates up, by whatever could be meant, and bounds their number.
use std::collections::BTreeMap;
use std::str::FromStr;

/// Someone who may be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<I> {
    pub id: I,
    /// Empty for those that have none.
    pub slug: String,
    pub name: String,
    /// The name without regard to case, folded as the query's text.
    pub folded: String,
    /// The sender has a relationship to it.
    pub related: bool,
}

/// What a sender wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a, I> {
    pub text: &'a str,
    /// The text without regard to case, folded as the names.
    pub folded: &'a str,
    /// Nobody means himself; `None` where the sender cannot be among the candidates.
    pub sender: Option<I>,
}

/// Who is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved<'a, I> {
    Found(&'a Candidate<I>),
    /// All of these fit equally well; nobody guesses.
    Several(Vec<&'a Candidate<I>>),
    Nobody,
}

/// How a candidate fits, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Id,
    Slug,
    Name,
    Part,
}

/// Finds who is meant: by id, by slug, by the exact name, or by a part of the name in either case. Of those that fit in
/// the same way, the ones the sender is related to go before the others. No character stands for others.
pub fn resolve<'a, I: PartialEq + FromStr>(query: &Query<'_, I>, candidates: &'a [Candidate<I>]) -> Resolved<'a, I> {
    if query.text.is_empty() || query.folded.is_empty() {
        return Resolved::Nobody;
    }
    let id = query.text.parse::<I>().ok();
    let mut by_fit: BTreeMap<(Fit, bool), Vec<&'a Candidate<I>>> = BTreeMap::new();
    for candidate in candidates.iter().filter(|candidate| query.sender.as_ref() != Some(&candidate.id)) {
        let fit = if id.as_ref() == Some(&candidate.id) {
            Fit::Id
        } else if candidate.slug == query.text {
            Fit::Slug
        } else if candidate.name == query.text {
            Fit::Name
        } else if candidate.folded.contains(query.folded) {
            Fit::Part
        } else {
            continue;
        };
        by_fit.entry((fit, !candidate.related)).or_default().push(candidate);
    }
    let Some((_, mut best)) = by_fit.pop_first() else { return Resolved::Nobody };
    if best.len() > 1 {
        return Resolved::Several(best);
    }
    best.pop().map_or(Resolved::Nobody, Resolved::Found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::UserId;

    fn candidate(slug: &str, name: &str, related: bool) -> Candidate<UserId> {
        Candidate {
            id: UserId::new(),
            slug: slug.to_owned(),
            name: name.to_owned(),
            folded: name.to_lowercase(),
            related,
        }
    }

    /// The slugs of those that are meant.
    fn meant<'a>(text: &str, sender: UserId, candidates: &'a [Candidate<UserId>]) -> Vec<&'a str> {
        let folded = text.to_lowercase();
        match resolve(&Query { text, folded: &folded, sender: Some(sender) }, candidates) {
            Resolved::Found(one) => vec![one.slug.as_str()],
            Resolved::Several(several) => {
                assert!(several.len() > 1, "one is found, not several");
                several.into_iter().map(|one| one.slug.as_str()).collect()
            }
            Resolved::Nobody => Vec::new(),
        }
    }

    #[test]
    fn the_closest_fit_wins_over_every_looser_one() {
        let sender = UserId::new();
        let mut all =
            [candidate("ann", "Helper", false), candidate("x", "ann", true), candidate("joanna", "Joanna", true)];
        assert_eq!(meant("ann", sender, &all), ["ann"], "a slug before a name, related or not");
        assert_eq!(meant("Ann", sender, &all), ["x", "joanna"], "two names have it as a part");
        assert_eq!(meant("JOAN", sender, &all), ["joanna"]);
        let id = all[2].id.to_string();
        all[0].slug.clone_from(&id);
        assert_eq!(meant(&id, sender, &all), ["joanna"], "an id before a slug");
        assert_eq!(meant(&id.to_uppercase(), sender, &all), ["joanna"], "in either case");
        assert_eq!(meant("nobody", sender, &all), [""; 0]);
    }

    #[test]
    fn the_related_go_before_the_others_only_where_they_fit_as_well() {
        let sender = UserId::new();
        let all = [
            candidate("a", "Writer", false),
            candidate("b", "Writer", true),
            candidate("c", "Writer two", true),
            candidate("d", "Reader of all", false),
            candidate("e", "Reader", false),
        ];
        assert_eq!(meant("Writer", sender, &all), ["b"], "one name, two that bear it");
        assert_eq!(meant("writer", sender, &all), ["b", "c"], "parts: of the related only");
        assert_eq!(meant("Reader", sender, &all), ["e"]);
        assert_eq!(meant("read", sender, &all), ["d", "e"]);
    }

    #[test]
    fn nobody_means_himself() {
        let all = [candidate("me", "Twin", true), candidate("you", "Twin", false)];
        assert_eq!(meant("Twin", all[0].id, &all), ["you"]);
        assert_eq!(meant("me", all[0].id, &all), [""; 0]);
        assert_eq!(meant(&all[0].id.to_string(), all[0].id, &all), [""; 0]);
    }

    #[test]
    fn a_sender_who_cannot_be_among_them_takes_nobody_out() {
        let all = [candidate("", "Ann", true), candidate("", "Joanna", true)];
        let query = |text: &'static str| Query { text, folded: text, sender: None };
        assert_eq!(resolve(&query("Ann"), &all), Resolved::Found(&all[0]));
        assert_eq!(resolve(&query("ann"), &all), Resolved::Several(vec![&all[0], &all[1]]));
        assert_eq!(resolve(&query(""), &all), Resolved::Nobody, "an empty slug is no slug");
    }

    #[test]
    fn no_character_stands_for_others() {
        let sender = UserId::new();
        let all = [candidate("a", "100% sure", false), candidate("b", "snake_case", false)];
        assert_eq!(meant("%", sender, &all), ["a"]);
        assert_eq!(meant("_", sender, &all), ["b"]);
        assert_eq!(meant("s%e", sender, &all), [""; 0]);
        assert_eq!(meant("", sender, &all), [""; 0]);
    }
}
