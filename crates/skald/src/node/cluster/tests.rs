//! Goal: nobody is forgotten who may hold what no table has. Method: small views and registers, one idea each.

use std::sync::Arc;

use skald_cluster::View;
use skald_cluster::assembly::{Assembler, Local, Plan};
use skald_cluster::{Node, Role, State};
use skald_rpc::grpc::ClientConfig;
use skald_rpc::ingester::Holding;
use skald_runtime::grpc::MessageLimits;
use skald_storage::registry::Registration;

use super::members::is_covered;
use super::register::Entries;

fn node(name: &str, state: State) -> Node {
    Node {
        name: name.into(),
        generation: 1,
        gossip: ([127, 0, 0, 1], 7946).into(),
        roles: vec![Role::Ingester],
        state,
        zone: "z".into(),
        grpc: "127.0.0.1:9095".into(),
        http: String::new(),
        tokens: 4,
    }
}

fn registration(name: &str) -> Registration {
    Registration { name: name.into(), zone: "z".into(), started_at: 1, address: "x".into() }
}

fn names(entries: &Entries) -> Vec<&str> {
    entries.all().map(|r| r.name.as_str()).collect()
}

#[test]
fn who_was_seen_is_registered_until_the_store_says_otherwise() {
    let mut entries = Entries::default();
    entries.take_in(&[node("a", State::Active)]);
    assert_eq!(names(&entries), ["a"]);
    // It failed before the store was asked again.
    entries.take_in(&[]);
    assert_eq!(names(&entries), ["a"]);
    let entries = Entries::listed(vec![registration("b")], &[node("c", State::Joining)]);
    assert_eq!(names(&entries), ["b", "c"]);
    assert!(entries.is_complete());
}

#[test]
fn who_left_is_out_whatever_an_older_list_says() {
    let entries = Entries::listed(vec![registration("a"), registration("b")], &[node("a", State::Left)]);
    assert_eq!(names(&entries), ["b"]);
    let entries = Entries::listed(vec![registration("a")], &[node("a", State::Stopped)]);
    assert_eq!(names(&entries), ["a"], "who only stopped may hold something");
}

fn view(replication_factor: usize) -> Arc<View> {
    let nodes = [node("a", State::Active), node("b", State::Active)];
    let mut assembler =
        Assembler::new(ClientConfig::default(), MessageLimits::default(), None, replication_factor);
    Arc::new(assembler.view(&Plan::new(&nodes, &[]), &Local::default()))
}

#[tokio::test]
async fn the_dead_are_forgotten_only_when_everybody_else_has_written_all_of_their_time() {
    let holding = |name: &str, oldest_stamp| Some(Holding { name: name.into(), oldest_stamp });
    let view = view(3);
    assert!(is_covered(&view, &[holding("a", None), holding("b", Some(101))], 100));
    assert!(!is_covered(&view, &[holding("a", None), holding("b", Some(100))], 100), "of its time");
    assert!(!is_covered(&view, &[holding("a", None), None], 100), "one does not answer");
    assert!(!is_covered(&view, &[holding("a", None)], 100), "one was not asked");
    assert!(
        !is_covered(&view, &[holding("a", None), holding("c", None)], 100),
        "another answers in its place"
    );
}

#[tokio::test]
async fn without_replicas_the_dead_are_never_forgotten_by_themselves() {
    let holding = |name: &str| Some(Holding { name: name.into(), oldest_stamp: None });
    assert!(!is_covered(&view(1), &[holding("a"), holding("b")], 100));
}
