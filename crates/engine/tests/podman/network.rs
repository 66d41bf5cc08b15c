//! The bridge.

use std::net::IpAddr;

use belay_engine::LogOptions;
use futures_util::StreamExt as _;

use crate::world::{World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_is_the_one_that_a_container_sees() {
    let world = World::new().await;
    let gateway = world.engine.bridge_gateway().await.expect("asked").expect("there is a bridge");
    let spec = world.spec("route", &["/bin/cat", "/proc/net/route"]);
    let id = world.run(&spec).await;
    let seen = eventually("the container to show its routes", || async {
        let options = LogOptions { follow: false, tail: None, since: None };
        let lines: Vec<_> = world.engine.logs(&id, &options).collect().await;
        lines.into_iter().flatten().find_map(|line| {
            let text = line.text().into_owned();
            let mut fields = text.split_whitespace().skip(1);
            let is_default = fields.next()? == "00000000";
            let number = u32::from_str_radix(fields.next()?, 16).ok()?;
            is_default.then(|| IpAddr::from(number.to_le_bytes()))
        })
    })
    .await;
    assert_eq!(gateway, seen);
}
