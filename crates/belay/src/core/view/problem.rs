//! What is written when something fails: what, why, and what to type next.

use std::fmt::Write;

use crate::core::table::one_line;

/// `belay: WHAT`, the details indented, and `next: COMMAND`.
pub(crate) fn page(what: &str, details: &[String], next: &str) -> String {
    let mut text = format!("belay: {}\n", one_line(what));
    for detail in details {
        let _ = writeln!(text, "  {}", one_line(detail));
    }
    if !next.is_empty() {
        let _ = writeln!(text, "next: {}", one_line(next));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn a_failure_says_what_why_and_what_next() {
        assert_eq!(
            page("the spec has faults", &["web.toml:3: x".to_owned()], "correct web.toml"),
            "belay: the spec has faults\n  web.toml:3: x\nnext: correct web.toml\n"
        );
        assert_eq!(page("it failed", &[], ""), "belay: it failed\n");
    }
}
