//! Specs that several tests deploy. Their image is [`crate::busybox_image`], beside the spec.

/// A workload `web` that serves `text` at `/index.html` of a host port, and counts its starts in
/// `starts` on its volume.
pub fn web_spec(port: u16, text: &str) -> String {
    format!(
        r#"
name = "web"
image = "file:busybox.tar"
command = ["/bin/sh", "-c", "echo started >> /data/starts; echo {text} > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
stop_grace = "0s"
[[ports]]
container = 8080
host = {port}
[volumes.data]
size = "16M"
mount = "/data"
[ready]
http = {{ port = 8080, path = "/index.html" }}
interval = "100ms"
"#
    )
}

/// A workload `app` that does nothing but hold `/data`, as `provider` or `consumer` of one key.
pub fn sync_spec(role: &str) -> String {
    format!(
        r#"
name = "app"
image = "file:busybox.tar"
command = ["/bin/sleep", "100000"]
stop_grace = "0s"
[volumes.data]
size = "32M"
mount = "/data"
[sync]
role = "{role}"
key = "state"
poll_interval = "1s"
[ready]
interval = "100ms"
"#
    )
}
