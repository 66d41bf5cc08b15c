use proptest::prelude::*;

use super::*;

fn name(text: &str) -> WorkloadName {
    text.parse().expect("a workload name")
}

fn graph(edges: &[(&str, &[&str])]) -> Graph {
    let needs = |list: &[&str]| list.iter().map(|need| name(need)).collect();
    edges.iter().map(|(from, to)| (name(from), needs(to))).collect()
}

#[test]
fn a_chain_is_taken_providers_first() {
    let declared = graph(&[("api", &["db"]), ("db", &[]), ("web", &["api", "db"])]);
    let admission = admit(&Graph::new(), &declared);
    assert_eq!(admission.order, ["db", "api", "web"].map(name));
    assert!(admission.refused.is_empty());
}

#[test]
fn every_missing_name_is_in_one_refusal_and_carries_on_to_those_that_need_it() {
    let declared = graph(&[("a", &["x", "b", "y"]), ("b", &[]), ("c", &["a"]), ("d", &["b"])]);
    let admission = admit(&graph(&[("z", &[])]), &declared);
    assert_eq!(admission.order, ["b", "d"].map(name));
    assert_eq!(admission.refused[&name("a")].to_string(), "x, y, which this node does not have");
    assert_eq!(admission.refused[&name("c")].to_string(), "a, which is refused itself");
}

#[test]
fn a_cycle_is_named_also_when_it_goes_through_what_the_node_has() {
    let declared = graph(&[("a", &["b"])]);
    let admission = admit(&graph(&[("b", &["c"]), ("c", &["a"])]), &declared);
    assert_eq!(admission.refused[&name("a")].to_string(), "a -> b -> c -> a, a cycle");
    let declared = graph(&[("a", &["a2"]), ("a2", &["a"]), ("out", &["a"])]);
    let admission = admit(&Graph::new(), &declared);
    assert_eq!(admission.refused[&name("a2")], Refusal::Cycle(vec![name("a2"), name("a")]));
    assert_eq!(admission.refused[&name("out")], Refusal::Refused(vec![name("a")]));
}

#[test]
fn a_known_workload_whose_provider_was_removed_is_in_nobodys_way() {
    let admission = admit(&graph(&[("api", &["gone"])]), &graph(&[("web", &["api"])]));
    assert_eq!(admission.order, [name("web")]);
}

#[test]
fn dependants_are_the_direct_ones() {
    let graph = graph(&[("api", &["db"]), ("db", &[]), ("job", &["db"]), ("web", &["api"])]);
    assert_eq!(dependants(&graph, &name("db")), ["api", "job"].map(name));
    assert!(dependants(&graph, &name("web")).is_empty());
}

fn any_graph(names: &'static [&'static str]) -> impl Strategy<Value = Graph> {
    let needs = proptest::collection::btree_set(
        proptest::sample::select(&["a", "b", "c", "d", "e", "f", "g", "h"][..]).prop_map(name),
        0..4,
    );
    proptest::collection::btree_map(proptest::sample::select(names).prop_map(name), needs, 0..6)
}

/// Whether everything that a workload needs, and what that needs, exists and leads nowhere back:
/// by walking all ways, which only a small graph allows.
fn is_sound(
    known: &Graph,
    declared: &Graph,
    at: &WorkloadName,
    above: &mut Vec<WorkloadName>,
) -> bool {
    if above.contains(at) {
        return false;
    }
    let (needs, strict) = match (declared.get(at), known.get(at)) {
        (Some(needs), _) => (needs, true),
        (None, Some(needs)) => (needs, false),
        (None, None) => return false,
    };
    above.push(at.clone());
    let exists = |need: &WorkloadName| known.contains_key(need) || declared.contains_key(need);
    let sound = needs
        .iter()
        .all(|need| (!strict && !exists(need)) || is_sound(known, declared, need, above));
    above.pop();
    sound
}

proptest! {
    /// What is admitted is what a walk over all ways finds sound, each after its needs.
    #[test]
    fn it_agrees_with_a_naive_model(
        known in any_graph(&["a", "b", "c", "d", "e"]),
        declared in any_graph(&["d", "e", "f", "g", "h"]),
    ) {
        let admission = admit(&known, &declared);
        for name in declared.keys() {
            let sound = is_sound(&known, &declared, name, &mut Vec::new());
            prop_assert_eq!(admission.order.contains(name), sound, "{}", name);
            prop_assert_eq!(admission.refused.contains_key(name), !sound, "{}", name);
        }
        for (at, name) in admission.order.iter().enumerate() {
            for need in &declared[name] {
                let before = admission.order[..at].contains(need);
                prop_assert!(before || !declared.contains_key(need), "{} before {}", name, need);
            }
        }
        for (name, refusal) in &admission.refused {
            match refusal {
                Refusal::Missing(absent) => {
                    let all: Vec<_> = declared[name].iter()
                        .filter(|need| !known.contains_key(*need) && !declared.contains_key(*need))
                        .cloned().collect();
                    prop_assert_eq!(absent, &all);
                }
                Refusal::Cycle(way) => {
                    prop_assert_eq!(way.first(), Some(name));
                    let edges = |from: &WorkloadName| declared.get(from).or(known.get(from));
                    for (at, from) in way.iter().enumerate() {
                        let to = &way[(at + 1) % way.len()];
                        prop_assert!(edges(from).is_some_and(|needs| needs.contains(to)));
                    }
                }
                Refusal::Refused(by) => prop_assert!(!by.is_empty()),
            }
        }
    }
}
