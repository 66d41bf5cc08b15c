//! Progress of an operation, as one line.

use belay_protocol::OperationProgress;

use super::human;
use super::table::one_line;

/// Cells of the bar.
const BAR: u64 = 24;

/// The line without its bytes: what is done now. It changes when a step begins.
pub(crate) fn step(progress: &OperationProgress) -> String {
    let detail = one_line(&progress.detail);
    let step = one_line(&progress.step);
    if detail.is_empty() { step } else { format!("{step}: {detail}") }
}

/// The line with a bar where a total is known, or the bytes where only they are.
pub(crate) fn bar(progress: &OperationProgress) -> String {
    let step = step(progress);
    match (progress.done_bytes, progress.total_bytes) {
        (Some(done), Some(total)) if total > 0 => {
            let filled = u128::from(done.min(total)) * u128::from(BAR) / u128::from(total);
            let filled = usize::try_from(filled).unwrap_or_default();
            let rest = usize::try_from(BAR).unwrap_or_default() - filled;
            let percent = u128::from(done.min(total)) * 100 / u128::from(total);
            format!(
                "{step}  [{}{}] {percent:>3}%  {} of {}",
                "#".repeat(filled),
                ".".repeat(rest),
                human::size(done),
                human::size(total)
            )
        }
        (Some(done), _) => format!("{step}  {}", human::size(done)),
        (None, _) => step,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(done: Option<u64>, total: Option<u64>) -> OperationProgress {
        OperationProgress {
            step: "fetch image".to_owned(),
            detail: "page\n".to_owned(),
            done_bytes: done,
            total_bytes: total,
        }
    }

    #[test]
    fn a_known_total_has_a_bar() {
        assert_eq!(
            bar(&progress(Some(1_048_576), Some(4_194_304))),
            "fetch image: page   [######..................]  25%  1 MiB of 4 MiB"
        );
        let over = bar(&progress(Some(5), Some(4)));
        assert!(over.contains("[########################] 100%"), "{over}");
    }

    #[test]
    fn without_a_total_there_is_none() {
        assert_eq!(bar(&progress(Some(2048), None)), "fetch image: page   2 KiB");
        assert_eq!(bar(&progress(Some(2048), Some(0))), "fetch image: page   2 KiB");
        assert_eq!(bar(&progress(None, None)), "fetch image: page ");
    }
}
