//! Goal: whatever members there are, writes go to those that take them and reads ask all that may know something.
//! Method: random members, checked against the rules one by one.

use proptest::prelude::*;
use skald_model::StreamId;

use super::*;

fn node(name: &str, state: State, roles: &[Role], answers: bool) -> Node {
    Node {
        name: name.into(),
        generation: 1,
        gossip: ([127, 0, 0, 1], 7946).into(),
        roles: roles.to_vec(),
        state,
        zone: String::new(),
        grpc: if answers { format!("127.0.0.1:{}", 9000 + name.len()) } else { String::new() },
        http: String::new(),
        tokens: 16,
    }
}

fn any_state() -> impl Strategy<Value = State> {
    prop::sample::select(vec![State::Joining, State::Active, State::Leaving, State::Stopped, State::Left])
}

proptest! {
    #[test]
    fn everybody_registered_is_called_or_absent(
        states in prop::collection::vec((any_state(), any::<bool>(), any::<bool>()), 0..8),
    ) {
        let mut nodes = Vec::new();
        let mut registered = Vec::new();
        for (i, (state, answers, is_registered)) in states.iter().enumerate() {
            let name = format!("n{i}");
            nodes.push(node(&name, *state, &[Role::Ingester, Role::Querier, Role::Distributor], *answers));
            if *is_registered {
                registered.push(Absent { name, zone: String::new() });
            }
        }
        let plan = Plan::new(&nodes, &registered);
        for r in &registered {
            let called = plan.ingesters.iter().any(|(m, _)| m.name == r.name);
            prop_assert_eq!(called, !plan.absent.contains(r));
        }
        for (place, _) in &plan.ingesters {
            let of = nodes.iter().find(|n| n.name == place.name).unwrap();
            prop_assert!(of.state.is_present() && !of.grpc.is_empty());
            prop_assert_eq!(place.tokens.is_empty(), of.state != State::Active);
        }
        let active = |n: &&Node| n.state == State::Active;
        prop_assert_eq!(plan.queriers.len(), nodes.iter().filter(active).filter(|n| !n.grpc.is_empty()).count());
        prop_assert_eq!(plan.distributors, nodes.iter().filter(active).count());
    }
}

#[tokio::test]
async fn those_who_come_or_go_are_read_but_not_written() {
    let nodes = [
        node("a", State::Active, &[Role::Ingester], true),
        node("bb", State::Leaving, &[Role::Ingester], true),
        node("ccc", State::Active, &[Role::Ingester], true),
        node("dddd", State::Joining, &[Role::Ingester], true),
    ];
    let mut assembler = Assembler::new(ClientConfig::default(), MessageLimits::default(), None, 3);
    let view = assembler.view(&Plan::new(&nodes, &[]), &Local::default());
    assert_eq!(view.ingesters().len(), 4);
    for stream in 0..50u64 {
        let replicas = view.replicas(StreamId(stream << 56), None);
        let names: Vec<_> = replicas.iter().map(|i| view.ingesters()[*i].name.as_str()).collect();
        assert!(names.iter().all(|n| ["a", "ccc"].contains(n)), "{names:?}");
    }
}

#[tokio::test]
async fn clients_live_as_long_as_somebody_is_called_there() {
    let nodes = |with_b: bool| {
        let mut nodes = vec![node("a", State::Active, &[Role::Ingester], true)];
        if with_b {
            nodes.push(node("bb", State::Active, &[Role::Ingester, Role::Querier], true));
        }
        Plan::new(&nodes, &[])
    };
    let mut assembler = Assembler::new(ClientConfig::default(), MessageLimits::default(), None, 3);
    let first = assembler.view(&nodes(true), &Local::default());
    let second = assembler.view(&nodes(false), &Local::default());
    assert!(Arc::ptr_eq(&first.ingesters()[0].service, &second.ingesters()[0].service));
    assert_eq!(assembler.connections.len(), 1);
}
