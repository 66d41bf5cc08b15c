//! `belay doctor`.

use std::fmt::Write;

use belay_protocol::{Finding, Verdict};

use crate::core::human;
use crate::core::table::{Cell, Style, Table, Tone};

/// A line a prerequisite, then what to do about those that are not good.
pub(crate) fn page(findings: &[Finding], style: Style) -> String {
    let mut table = Table::new(&["VERDICT", "SUBJECT", "FOUND"]);
    let mut advice = String::new();
    for finding in findings {
        let (word, tone) = words(finding.verdict);
        table.row([
            Cell::new(word, tone),
            finding.subject.as_str().into(),
            finding.found.as_str().into(),
        ]);
        if !finding.advice.is_empty() {
            let _ = writeln!(advice, "  {}: {}", finding.subject, finding.advice);
        }
    }
    let heading = if advice.is_empty() { "" } else { "\nwhat to do:\n" };
    format!("{}{heading}{advice}\n{}\n", table.render(style), verdict(findings))
}

/// The worst verdict; a host that was not looked at is not good.
pub(crate) fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Faulty)
}

fn words(verdict: Verdict) -> (&'static str, Tone) {
    match verdict {
        Verdict::Good => ("good", Tone::Good),
        Verdict::Limited => ("limited", Tone::Doubtful),
        Verdict::Faulty => ("faulty", Tone::Bad),
    }
}

fn verdict(findings: &[Finding]) -> String {
    let faulty = findings.iter().filter(|finding| finding.verdict == Verdict::Faulty).count();
    match worst(findings) {
        Verdict::Good => "this host has all that belayd needs".to_owned(),
        Verdict::Limited => "belayd can work on this host, with the limits above".to_owned(),
        Verdict::Faulty => {
            format!("{} must be mended before belayd can work here", human::count(faulty, "thing"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(subject: &str, verdict: Verdict, found: &str, advice: &str) -> Finding {
        let text = str::to_owned;
        Finding { subject: text(subject), verdict, found: text(found), advice: text(advice) }
    }

    #[test]
    fn faults_come_with_what_to_do() {
        let findings = [
            finding("engine", Verdict::Good, "podman 4.3.1", ""),
            finding("snapshot", Verdict::Limited, "no CRIU", "apt-get install criu"),
            finding("loop devices", Verdict::Faulty, "no /dev/loop-control", "modprobe loop"),
        ];
        assert_eq!(
            page(&findings, Style::Plain),
            "VERDICT  SUBJECT       FOUND\n\
             good     engine        podman 4.3.1\n\
             limited  snapshot      no CRIU\n\
             faulty   loop devices  no /dev/loop-control\n\
             \n\
             what to do:\n\
             \x20 snapshot: apt-get install criu\n\
             \x20 loop devices: modprobe loop\n\
             \n\
             1 thing must be mended before belayd can work here\n"
        );
        assert_eq!(worst(&findings), Verdict::Faulty);
    }

    #[test]
    fn a_good_host_says_so_and_an_unexamined_one_does_not() {
        let good = [finding("engine", Verdict::Good, "podman 4.3.1", "")];
        assert!(page(&good, Style::Plain).ends_with("\nthis host has all that belayd needs\n"));
        assert_eq!(worst(&[]), Verdict::Faulty);
    }
}
