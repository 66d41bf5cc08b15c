//! `belay image ls`.

use std::fmt::Write as _;

use belay_protocol::{ImageStatus, ImagesStatus, PullStatus, WorkloadName};
use jiff::Timestamp;

use crate::core::human;
use crate::core::table::{Cell, Style, Table, Tone, one_line};

/// Images that belayd brought, pulls, and the room that there is.
pub(crate) fn table(images: &ImagesStatus, now: Timestamp, style: Style) -> String {
    let mut text = String::new();
    if images.images.is_empty() {
        text.push_str("no images that belayd brought\n");
    } else {
        let mut table = Table::new(&["IMAGE", "ID", "SIZE", "USED", "BY", "STAYS"]);
        for image in &images.images {
            let users: Vec<_> = image.users.iter().map(WorkloadName::as_str).collect();
            let (stays, tone) = match &image.stays {
                Some(why) => (why.as_str(), Tone::Plain),
                None => ("no: belay image prune removes it", Tone::Doubtful),
            };
            table.row([
                called(image).into(),
                short(&image.id).into(),
                human::size(image.size_bytes).into(),
                format!("{} ago", human::age(now, image.used_at)).into(),
                users.join(", ").into(),
                Cell::new(stays, tone),
            ]);
        }
        text.push_str(&table.render(style));
    }
    for pull in &images.pulls {
        text.push_str(&line(pull, now, style));
    }
    let _ = writeln!(
        text,
        "{} free of {} at {}; {} images of others, which belayd never removes",
        human::size(images.free_bytes),
        human::size(images.total_bytes),
        one_line(&images.storage),
        images.foreign
    );
    text
}

fn line(pull: &PullStatus, now: Timestamp, style: Style) -> String {
    let image = one_line(&pull.image);
    match (&pull.next_try_at, &pull.last_error) {
        (Some(at), error) => {
            let error = one_line(error.as_deref().unwrap_or_default());
            let failed = Tone::Bad.paint(style, &format!("failed {} times", pull.failures));
            let next = human::until(now, *at);
            format!("pull of {image} {failed}, not tried by itself for {next}: {error}\n")
        }
        (None, _) => format!(
            "pulling {image}: {} of {} layers, {} of {}\n",
            pull.layers_here,
            pull.layers,
            human::size(pull.done_bytes),
            human::size(pull.total_bytes)
        ),
    }
}

/// What specs call it; where they call it several things, the name that it has.
fn called(image: &ImageStatus) -> String {
    match (image.sources.as_slice(), image.names.first()) {
        ([only], _) => only.clone(),
        (_, Some(name)) => name.clone(),
        (sources, None) => sources.join(", "),
    }
}

fn short(id: &str) -> String {
    id.rsplit_once(':').map_or(id, |(_, hex)| hex).chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ImagesStatus {
        serde_json::from_value(serde_json::json!({
            "storage": "/var/lib/containers/storage",
            "free_bytes": 1_073_741_824_u64, "total_bytes": 8_589_934_592_u64,
            "images": [
                {"id": "sha256:0123456789abcdef", "sources": ["r.example/web:1"],
                 "names": ["r.example/web:1"], "size_bytes": 2_097_152,
                 "fetched_at": "2026-05-04T00:00:00Z", "used_at": "2026-05-04T00:00:00Z",
                 "users": ["web"], "pinned": false, "stays": "workload web ran on it before"},
                {"id": "sha256:ff23456789abcdef", "sources": ["r.example/old:1"], "names": [],
                 "size_bytes": 1024, "fetched_at": "2026-05-04T00:00:00Z",
                 "used_at": "2026-05-04T00:00:00Z", "users": [], "pinned": false, "stays": null}],
            "foreign": 3,
            "pulls": [
                {"image": "r.example/app:2", "layers": 4, "layers_here": 1,
                 "done_bytes": 1_048_576, "total_bytes": 4_194_304, "failures": 0,
                 "next_try_at": null, "last_error": null},
                {"image": "r.example/gone:2", "layers": 0, "layers_here": 0, "done_bytes": 0,
                 "total_bytes": 0, "failures": 3, "next_try_at": "2026-05-04T01:00:40Z",
                 "last_error": "cannot pull it\nconnection refused"}]
        }))
        .expect("of this shape")
    }

    #[test]
    fn images_pulls_and_room_are_shown() {
        let now = "2026-05-04T01:00:00Z".parse().expect("a time");
        assert_eq!(
            table(&sample(), now, Style::Plain),
            "IMAGE            ID            SIZE   USED    BY   STAYS\n\
             r.example/web:1  0123456789ab  2 MiB  1h ago  web  workload web ran on it before\n\
             r.example/old:1  ff23456789ab  1 KiB  1h ago       no: belay image prune removes it\n\
             pulling r.example/app:2: 1 of 4 layers, 1 MiB of 4 MiB\n\
             pull of r.example/gone:2 failed 3 times, not tried by itself for 40s: cannot pull it \
             connection refused\n\
             1 GiB free of 8 GiB at /var/lib/containers/storage; 3 images of others, which belayd \
             never removes\n"
        );
    }

    #[test]
    fn a_node_without_images_says_so() {
        let text = table(&ImagesStatus::default(), Timestamp::UNIX_EPOCH, Style::Plain);
        assert!(text.starts_with("no images that belayd brought\n0 B free"), "{text}");
    }
}
