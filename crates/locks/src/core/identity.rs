//! Which process: a process id alone is given again and names nobody.

/// One process of one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since the boot.
    pub start_ticks: u64,
    /// The boot.
    pub boot_id: String,
}

/// State and start of a process, from `/proc/PID/stat`.
///
/// The name in it may hold anything, parentheses and spaces included, so reading begins behind the
/// last parenthesis. Fields are those of `proc_pid_stat(5)`.
pub fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 22 of the line; the state is field 3.
    let ticks = fields.nth(18)?.parse().ok()?;
    Some((state, ticks))
}

/// Whether a process in this state has let go of its files.
pub fn is_gone(state: char) -> bool {
    matches!(state, 'Z' | 'X' | 'x')
}

/// The process that holds the `flock` on a file, from `/proc/locks`: it is the one that asked for
/// it, even where a child of it is left with the open file.
pub fn flock_owner(table: &str, major: u32, minor: u32, inode: u64) -> Option<u32> {
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_flock = fields.next()? == "FLOCK";
        let pid = fields.nth(2)?;
        let found = fields.next()?;
        (is_flock && found == place).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_mislead() {
        let stat = "812 (a) Z (b)) S 1 812 812 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3";
        assert_eq!(parse_stat(stat), Some(('S', 987_654)));
        assert_eq!(parse_stat("812 (a"), None);
        assert_eq!(parse_stat("812 (a) S 1 2"), None);
    }

    #[test]
    fn the_owner_is_found_among_other_locks() {
        let table = "1: POSIX  ADVISORY  READ 5 00:1a:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 812 00:1a:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 900 00:1a:78 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 813 08:01:77 0 EOF\n";
        assert_eq!(flock_owner(table, 0, 0x1a, 77), Some(812));
        assert_eq!(flock_owner(table, 8, 1, 77), Some(813));
        assert_eq!(flock_owner(table, 0, 0x1a, 78), None, "one that waits holds nothing");
    }
}
