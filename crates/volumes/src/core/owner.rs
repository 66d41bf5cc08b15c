//! Whose a volume is, by the USER of an image: numbers as they stand, names by the image's own
//! `/etc/passwd` and `/etc/group`, which are read as text and never by running anything.

use super::spec::Owner;

/// Why an image's user could not be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnerFault {
    /// The name is not in the image's passwd file.
    #[error("the image's user {name:?} is not in its /etc/passwd; set the owner of the volume")]
    UnknownUser {
        /// The name, cut to 40 characters.
        name: String,
    },
    /// The name is not in the image's group file.
    #[error("the image's group {name:?} is not in its /etc/group; set the owner of the volume")]
    UnknownGroup {
        /// The name, cut to 40 characters.
        name: String,
    },
}

/// The owner that the image's USER stands for: empty is root; a number without a group gets the
/// group that the passwd file gives it, else the same number; names are looked up. Lines that are
/// not entries are passed over.
pub fn image_owner(user: &str, passwd: &str, group: &str) -> Result<Owner, OwnerFault> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let entry = entries(passwd)
        .find(|entry| entry.name == user || user.parse().is_ok_and(|uid: u32| entry.id == uid));
    let (uid, primary) = match (user, user.parse::<u32>(), entry) {
        ("", ..) => (0, 0),
        (_, Ok(uid), entry) => (uid, entry.and_then(|entry| entry.group).unwrap_or(uid)),
        (_, Err(_), Some(entry)) => (entry.id, entry.group.unwrap_or(entry.id)),
        // An image without a passwd file still has a root.
        ("root", ..) => (0, 0),
        (name, ..) => return Err(OwnerFault::UnknownUser { name: cut(name) }),
    };
    let gid = match wanted_group {
        None => primary,
        Some(text) => match (text.parse(), entries(group).find(|entry| entry.name == text)) {
            (Ok(gid), _) => gid,
            (Err(_), Some(entry)) => entry.id,
            (Err(_), None) if text == "root" => 0,
            (Err(_), None) => return Err(OwnerFault::UnknownGroup { name: cut(text) }),
        },
    };
    Ok(Owner { uid, gid })
}

struct Entry<'a> {
    name: &'a str,
    id: u32,
    /// The fourth field: the primary group in passwd, members in group.
    group: Option<u32>,
}

fn entries(file: &str) -> impl Iterator<Item = Entry<'_>> {
    file.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let _password = fields.next()?;
        let id = fields.next()?.parse().ok()?;
        let group = fields.next().and_then(|field| field.parse().ok());
        Some(Entry { name, id, group })
    })
}

fn cut(name: &str) -> String {
    name.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
# a comment: with: colons
broken line
app:x:1001:2002:App:/home/app:/bin/sh
odd:x:notanumber:5::/:
";
    const GROUP: &str = "root:x:0:\nstaff:x:50:app,other\n";

    fn owner(user: &str) -> Result<(u32, u32), OwnerFault> {
        image_owner(user, PASSWD, GROUP).map(|owner| (owner.uid, owner.gid))
    }

    #[test]
    fn no_user_and_all_spellings_of_root_are_root() {
        for user in ["", "root", "0", "0:0", "root:root", ":"] {
            assert_eq!(owner(user), Ok((0, 0)), "{user:?}");
            assert_eq!(image_owner(user, "", ""), Ok(Owner { uid: 0, gid: 0 }), "{user:?}");
        }
    }

    #[test]
    fn numbers_are_taken_as_they_stand() {
        assert_eq!(owner("1000"), Ok((1000, 1000)));
        assert_eq!(owner("1000:2000"), Ok((1000, 2000)));
        assert_eq!(owner("1001"), Ok((1001, 2002)), "the passwd file knows its group");
        assert_eq!(owner("1001:7"), Ok((1001, 7)));
    }

    #[test]
    fn names_are_looked_up_in_the_images_own_files() {
        assert_eq!(owner("app"), Ok((1001, 2002)));
        assert_eq!(owner("app:staff"), Ok((1001, 50)));
        assert_eq!(owner("1000:staff"), Ok((1000, 50)));
        assert_eq!(owner("app:77"), Ok((1001, 77)));
    }

    #[test]
    fn names_that_are_not_there_are_faults_that_say_what_to_do() {
        let fault = owner("nobody-knows").expect_err("it is not there").to_string();
        assert!(fault.contains("nobody-knows") && fault.contains("set the owner"), "{fault}");
        assert_eq!(owner("odd"), Err(OwnerFault::UnknownUser { name: "odd".to_owned() }));
        assert_eq!(owner("app:no"), Err(OwnerFault::UnknownGroup { name: "no".to_owned() }));
        assert!(image_owner("app", "", "").is_err());
    }

    proptest! {
        #[test]
        fn no_file_makes_the_reader_panic(user in "\\PC{0,20}", passwd in "[a-z:0-9\\n#]{0,200}") {
            let _ = image_owner(&user, &passwd, &passwd);
        }
    }
}
