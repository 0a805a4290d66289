//! What the watches tell, and what becomes of it, without a server.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::*;
use crate::convert::object::parse_json;

fn item(kind: Kind, json: &str) -> Item {
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    let text = |field: &str| value.pointer(field).and_then(|it| it.as_str()).unwrap_or_default().to_owned();
    Item {
        name: kind.reference(&text("/metadata/namespace"), &text("/metadata/name")),
        parsed: parse_json(kind, json),
        version: "1".to_owned(),
    }
}

fn node() -> Item {
    item(Kind::Node, r#"{"metadata": {"name": "node-a"}}"#)
}

/// A pod that cannot be read, as it never could.
fn broken(name: &str) -> Item {
    item(
        Kind::Pod,
        &format!(r#"{{"metadata": {{"name": "{name}", "namespace": "shop"}}, "spec": {{"nodeName": 3}}}}"#),
    )
}

/// A source that has heard a list of each kind, with these pods, and what it told then.
async fn listed(pods: Vec<Item>) -> (Source, UnboundedSender<Heard>, News) {
    let (sender, heard) = unbounded_channel();
    let mut source = Source::new("node-a", heard);
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Pod) {
        let items = if kind == Kind::Node { vec![node()] } else { Vec::new() };
        sender.send(Heard::Listed(kind, items)).unwrap();
    }
    sender.send(Heard::Listed(Kind::Pod, pods)).unwrap();
    let news = source.changed().await;
    (source, sender, news)
}

#[tokio::test]
async fn a_complaint_about_an_object_that_went_during_an_outage_goes_with_it() {
    let (mut source, sender, news) = listed(vec![broken("odd"), broken("other")]).await;
    assert_eq!(news.invalid.len(), 2, "{:?}", news.invalid);
    sender.send(Heard::Listed(Kind::Node, vec![node()])).unwrap();
    assert_eq!(source.changed().await.invalid.len(), 2, "pods were not listed");
    sender.send(Heard::Listed(Kind::Pod, vec![broken("other")])).unwrap();
    let news = source.changed().await;
    assert_eq!(news.invalid.len(), 1, "{:?}", news.invalid);
    assert!(news.invalid[0].starts_with("Pod shop/other"), "{:?}", news.invalid);
}

#[tokio::test]
async fn complaints_that_do_not_change_are_told_as_the_same() {
    let (mut source, sender, first) = listed(vec![broken("odd")]).await;
    let namespace = || item(Kind::Namespace, r#"{"metadata": {"name": "shop"}}"#);
    sender.send(Heard::Applied(namespace())).unwrap();
    let second = source.changed().await;
    sender.send(Heard::Applied(broken("odd"))).unwrap();
    let third = source.changed().await;
    assert!(Arc::ptr_eq(&second.invalid, &third.invalid));
    assert_eq!(first.invalid, third.invalid);
    sender.send(Heard::Applied(broken("new"))).unwrap();
    assert_eq!(source.changed().await.invalid.len(), 2);
    sender.send(Heard::Deleted(broken("odd").name, "2".to_owned())).unwrap();
    assert_eq!(source.changed().await.invalid.len(), 1);
}

#[tokio::test]
async fn how_long_the_first_lists_take_is_not_the_agents_time() {
    let (sender, heard) = unbounded_channel();
    let mut source = Source::new("node-a", heard);
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Pod) {
        sender.send(Heard::Listed(kind, Vec::new())).unwrap();
    }
    let waited = tokio::time::timeout(Duration::from_millis(50), source.changed()).await;
    assert!(waited.is_err(), "pods were not listed");
    let complete = Instant::now();
    sender.send(Heard::Listed(Kind::Pod, Vec::new())).unwrap();
    assert!(source.changed().await.noticed >= complete);
}
