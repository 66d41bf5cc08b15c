use belay_protocol::WorkloadName;
use belay_protocol::runner::RunnerId;

use super::Admission;

fn workload() -> WorkloadName {
    "mail".parse().expect("a name")
}

fn name(text: &str) -> RunnerId {
    text.parse().expect("a name")
}

#[test]
fn the_last_room_is_given_once() {
    let mut admission = Admission::new(100);
    assert!(admission.reserve(&name("a"), &workload(), 60));
    assert!(!admission.reserve(&name("b"), &workload(), 41));
    assert_eq!(admission.resident(&name("b")), None, "what was refused leaves nothing");
    assert!(admission.reserve(&name("b"), &workload(), 40));
    assert!(!admission.reserve(&name("c"), &workload(), 1));
    admission.remove(&name("a"));
    assert_eq!(admission.reserved(), 40);
    assert!(!admission.reserve(&name("c"), &workload(), u64::MAX), "no sum overflows");
}

#[test]
fn memory_on_the_disk_is_free_and_comes_back_only_where_there_is_room() {
    let mut admission = Admission::new(100);
    assert!(admission.reserve(&name("a"), &workload(), 60));
    admission.swap_out(&name("a"));
    admission.swap_out(&name("a"));
    assert_eq!(admission.reserved(), 0);
    assert!(admission.reserve(&name("b"), &workload(), 50));
    assert!(!admission.may_swap_in(&name("a")));
    admission.remove(&name("b"));
    assert!(admission.may_swap_in(&name("a")));
    admission.swap_in(&name("a"));
    admission.swap_in(&name("a"));
    assert_eq!(admission.reserved(), 60);
    admission.swap_out(&name("a"));
    admission.remove(&name("a"));
    assert_eq!(admission.reserved(), 0, "what holds no memory gives none back");
}

#[test]
fn a_container_is_told_to_stop_once() {
    let mut admission = Admission::new(100);
    assert!(!admission.begin_stop(&name("a")));
    assert!(admission.reserve(&name("a"), &workload(), 60));
    assert!(admission.begin_stop(&name("a")));
    assert!(!admission.begin_stop(&name("a")));
}
