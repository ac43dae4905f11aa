//! The list from one generation to the next.

use super::*;

const DAY: Timestamp = 86_400 * SECOND;
const PERIOD: Duration = Duration::from_secs(86_400);

fn request(id: &str, created: Timestamp) -> DeleteRequest {
    DeleteRequest {
        id: id.into(),
        query: r#"{app="a"}"#.into(),
        start: 0,
        end: 9,
        created,
        generation: 0,
        processed: None,
    }
}

fn list(requests: &[(&str, Timestamp)]) -> DeleteList {
    let add =
        |list: DeleteList, (id, at): &(&str, Timestamp)| list.with(request(id, *at), *at).unwrap().unwrap();
    requests.iter().fold(DeleteList::default(), add)
}

#[test]
fn each_change_is_a_generation() {
    let list = list(&[("a", 1), ("b", 2)]);
    assert_eq!(list.generation, 2);
    assert_eq!(list.requests.iter().map(|r| r.generation).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(list.with(request("a", 3), 3).unwrap(), None, "it is there already");
    let without = list.without("a", false, 3, |_| false).unwrap();
    assert_eq!((without.generation, without.requests.len()), (3, 1));
    let bytes = serde_json::to_vec(&without).unwrap();
    assert_eq!(DeleteList::parse(&bytes).unwrap(), without);
}

#[test]
fn a_request_can_be_taken_back_until_it_has_been_carried_out() {
    let list = list(&[("a", 1), ("b", 2)]);
    let text = |list: &DeleteList, id: &str, force, done: bool| {
        list.without(id, force, 5, |_| done).unwrap_err().message
    };
    assert_eq!(text(&list, "c", true, false), "could not find delete request with given id");
    assert!(
        text(&list, "a", false, true).starts_with("Unable to cancel partially completed delete request.")
    );
    assert!(list.without("a", true, 5, |_| true).is_ok());
    let done = list.with_processed(&["a".into()], 7).unwrap();
    assert!(text(&done, "a", true, false).starts_with("deletion of request which is in process"));
    assert_eq!(done.with_processed(&["a".into(), "x".into()], 8), None, "nothing is new");
}

#[test]
fn only_those_are_ready_before_which_all_are() {
    let list = list(&[("a", 0), ("b", DAY), ("c", DAY / 2)]);
    let ready = |now| {
        let (ready, generation) = list.ready(now, PERIOD);
        (ready.len(), generation)
    };
    assert_eq!(ready(DAY - 1), (0, 0));
    assert_eq!(ready(DAY), (1, 1));
    assert_eq!(ready(DAY * 3 / 2), (1, 1), "c is final, but b before it is not");
    assert_eq!(ready(2 * DAY), (3, 3));
    assert_eq!(list.ready(0, Duration::ZERO).1, 1);
    let done = list.with_processed(&["a".into()], DAY).unwrap();
    assert_eq!(done.ready(DAY, PERIOD).1, 1);
    assert_eq!(done.ready(2 * DAY, PERIOD).1, 4, "a list without open ones is all there is");
}

#[test]
fn requests_are_forgotten_long_after_they_were_carried_out() {
    let list = list(&[("a", SECOND), ("b", 2 * SECOND)]).with_processed(&["a".into()], 3 * SECOND).unwrap();
    let later = 3 * SECOND + 35 * DAY;
    let kept = list.with(request("c", later), later).unwrap().unwrap();
    assert!(kept.find("a").is_some());
    assert_eq!(kept.forgotten, 0);
    let gone = list.with(request("c", later + 1), later + 1).unwrap().unwrap();
    assert_eq!(gone.requests.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(gone.forgotten, 1);
}

#[test]
fn there_is_a_limit() {
    let mut list = DeleteList::default();
    for i in 0..OPEN_MAX {
        list = list.with(request(&i.to_string(), 1), 1).unwrap().unwrap();
    }
    let error = list.with(request("one more", 1), 1).unwrap_err();
    assert_eq!(error.kind, Kind::LimitExceeded);
    assert!(error.message.contains("1000"), "{}", error.message);
    let done = list.with_processed(&["5".into()], 2).unwrap();
    assert!(done.with(request("one more", 1), 1).unwrap().is_some());
}

#[test]
fn lists_of_later_versions_are_not_misread() {
    let text = |format| format!(r#"{{"format":{format},"generation":1,"requests":[]}}"#);
    assert!(DeleteList::parse(text(1).as_bytes()).is_ok());
    assert!(DeleteList::parse(text(2).as_bytes()).unwrap_err().contains("format 2"));
    assert!(DeleteList::parse(b"{").is_err());
}
