use belay_protocol::{SyncHead, SyncRole};
use proptest::prelude::*;

use super::*;

const TEN_MINUTES: FirstContent = FirstContent::Awaited { within: Some(Duration::from_secs(600)) };
const WITHOUT_BOUND: FirstContent = FirstContent::Awaited { within: None };

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn key(name: &str) -> SyncKey {
    name.parse().expect("a key")
}

fn waiting(since: i64) -> ContentWait {
    ContentWait { key: key("models"), since: at(since), ended: None }
}

fn ended(since: i64, by: ContentWaitEnd) -> ContentWait {
    ContentWait { ended: Some(by), ..waiting(since) }
}

#[test]
fn what_a_look_comes_to() {
    use ContentWaitEnd::{Operator, Time};
    use FirstContent::NotAwaited;
    use Held::{Content, Nothing};
    let far = FirstContent::Awaited { within: Some(Duration::MAX) };
    for (rule, known, held, now, next, what) in [
        (NotAwaited, None, Nothing, 50, None, "nobody asked for it"),
        (NotAwaited, Some(waiting(9)), Nothing, 50, None, "nobody asks for it any more"),
        (WITHOUT_BOUND, None, Content, 50, None, "it is there"),
        (WITHOUT_BOUND, None, Nothing, 50, Some(waiting(50)), "it begins"),
        (WITHOUT_BOUND, Some(waiting(9)), Nothing, 900_000, Some(waiting(9)), "it goes on"),
        (WITHOUT_BOUND, Some(waiting(9)), Content, 50, None, "it came"),
        (TEN_MINUTES, Some(waiting(9)), Nothing, 608, Some(waiting(9)), "a second before its end"),
        (TEN_MINUTES, Some(waiting(9)), Nothing, 609, Some(ended(9, Time)), "its time is over"),
        (TEN_MINUTES, Some(ended(9, Time)), Nothing, 999, Some(ended(9, Time)), "it stays over"),
        (WITHOUT_BOUND, Some(ended(9, Operator)), Nothing, 50, Some(ended(9, Operator)), "as said"),
        (TEN_MINUTES, Some(ended(9, Time)), Content, 999, None, "it came later"),
        (TEN_MINUTES, Some(waiting(700)), Nothing, 50, Some(waiting(50)), "the clock was set back"),
        (far, Some(waiting(9)), Nothing, 999_999, Some(waiting(9)), "no bound overflows"),
    ] {
        let found = after_look(rule, &key("models"), known.as_ref(), held, at(now));
        assert_eq!(found, next, "{what}");
    }
    let other = after_look(TEN_MINUTES, &key("other"), Some(&ended(9, Time)), Nothing, at(700));
    let anew = ContentWait { key: key("other"), ..waiting(700) };
    assert_eq!(other, Some(anew), "another key begins anew");
}

#[test]
fn an_operator_ends_a_wait_once() {
    use ContentWaitEnd::{Operator, Time};
    let models = key("models");
    let said = |known: Option<&ContentWait>| ignored(TEN_MINUTES, &models, known, at(50));
    assert_eq!(said(None), Some(ended(50, Operator)));
    assert_eq!(said(Some(&waiting(9))), Some(ended(9, Operator)));
    assert_eq!(said(Some(&ended(9, Time))), Some(ended(9, Time)), "it had ended");
    assert_eq!(ignored(FirstContent::NotAwaited, &models, None, at(50)), None);
    assert_eq!(fact(Some(&waiting(9))), ContentFact::Awaited);
    assert_eq!(fact(Some(&ended(9, Time))), ContentFact::There);
    assert_eq!(fact(None), ContentFact::There);
    assert_eq!(until(TEN_MINUTES, &waiting(9)), Some(at(609)));
    assert_eq!(until(TEN_MINUTES, &ended(9, Operator)), None);
    assert_eq!(until(WITHOUT_BOUND, &waiting(9)), None);
}

#[test]
fn a_wait_says_what_is_in_the_way() {
    let models = key("models");
    let sync = |change: &dyn Fn(&mut SyncStatus)| {
        let mut status: SyncStatus = serde_json::from_value(serde_json::json!({
            "role": "consumer", "key": "models", "stage": "idle", "quarantine": {},
        }))
        .expect("a status");
        assert_eq!(status.role, SyncRole::Consumer);
        change(&mut status);
        status
    };
    let said = |status: &SyncStatus| why(&models, Some(status));
    let down = Some("the store does not answer: refused".to_owned());
    assert_eq!(
        said(&sync(&|s| s.unapplied.clone_from(&down))),
        "the store does not answer: refused"
    );
    assert_eq!(said(&sync(&|_| {})), "models was not looked at yet");
    assert_eq!(said(&sync(&|s| s.paused = Some(at(1)))), "an operator paused volume-sync");
    let head = SyncHead {
        cid: belay_protocol::Cid::from_digest([7; 32]),
        version: 1,
        epoch: 1,
        seq: 3,
        node: "north".parse().expect("a name"),
        signer: None,
    };
    let fetching = sync(&|s| {
        s.stage = "downloading".to_owned();
        s.unapplied.clone_from(&down);
        s.head = Some(head.clone());
    });
    assert_eq!(said(&fetching), "record 3 of epoch 1 is on its way (downloading)");
    assert_eq!(
        sentence(&models, None),
        "waiting-for the first content of models: volume-sync of the workload has not begun"
    );
}

/// What may befall a consumer.
#[derive(Debug, Clone, Copy)]
enum Happens {
    /// belayd looks, as it does before each start; a restart of it changes nothing here.
    Look,
    Later(i64),
    Applied,
    Emptied,
    StartedWithout,
    Stopped,
    Deployed(FirstContent),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => Just(Happens::Look),
        3 => (0..900_i64).prop_map(Happens::Later),
        1 => Just(Happens::Applied),
        1 => Just(Happens::Emptied),
        1 => Just(Happens::StartedWithout),
        1 => Just(Happens::Stopped),
        1 => prop_oneof![
            Just(FirstContent::NotAwaited),
            Just(WITHOUT_BOUND),
            Just(TEN_MINUTES)
        ]
        .prop_map(Happens::Deployed),
    ]
}

proptest! {
    /// Held against a model that remembers everything: what may be started holds content, or was
    /// waited for long enough, or an operator said so since it held some or was stopped.
    #[test]
    fn nothing_is_started_before_its_content_unless_the_wait_was_given_up(
        all in proptest::collection::vec(happens(), 1..60),
    ) {
        let models = key("models");
        let (mut rule, mut held, mut now) = (WITHOUT_BOUND, Held::Nothing, 1_000);
        let mut wait: Option<ContentWait> = None;
        // The model: looks that found nothing since the last content or stop, and the operator's word.
        let (mut first_look, mut said) = (None, false);
        let mut over = false;
        for happening in all {
            match happening {
                Happens::Later(seconds) => now += seconds,
                Happens::Applied => held = Held::Content,
                Happens::Emptied => held = Held::Nothing,
                Happens::Deployed(other) => rule = other,
                Happens::Stopped => {
                    wait = None;
                    (first_look, said, over) = (None, false, false);
                }
                Happens::StartedWithout => {
                    wait = ignored(rule, &models, wait.as_ref(), at(now));
                    if rule == FirstContent::NotAwaited {
                        (first_look, said, over) = (None, false, false);
                    } else {
                        first_look = first_look.or(Some(now));
                        said = true;
                    }
                }
                Happens::Look => {
                    wait = after_look(rule, &models, wait.as_ref(), held, at(now));
                    if held == Held::Content || rule == FirstContent::NotAwaited {
                        (first_look, said, over) = (None, false, false);
                    } else {
                        let since = *first_look.get_or_insert(now);
                        over |= rule == TEN_MINUTES && now - since >= 600;
                    }
                    let may = fact(wait.as_ref()) == ContentFact::There;
                    let should = rule == FirstContent::NotAwaited
                        || held == Held::Content
                        || said
                        || over;
                    prop_assert_eq!(may, should, "{:?} {:?} {}", rule, wait, now);
                }
            }
        }
    }
}
