//! Connections that were there before any policy was: when programs come onto the pods' veths, what policy allows goes on,
//! whichever side speaks first, and what it does not is cut, whichever side goes on talking.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use postern_lab::working_copy::Files;
use serde_json::{Value, json};

use crate::inside::pod;
use crate::manifests::{deny_all, small};
use crate::support::{run, up};

/// What is let through arrives in this time, under load too.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is dropped has not arrived after this time.
const SILENCE: Duration = Duration::from_millis(1500);

const DB: ([u8; 4], u16) = ([10, 1, 2, 2], 8000);

/// All of shop isolated, both ways; web may reach db on a port, and nothing else is allowed.
fn isolated(port: u16) -> Files {
    let peer = |app: &str| json!([{ "podSelector": { "matchLabels": { "app": app } } }]);
    let ports = json!([{ "port": port }]);
    let db: Value = json!({
        "podSelector": { "matchLabels": { "app": "db" } },
        "ingress": [{ "from": peer("web"), "ports": ports }]
    });
    let web = json!({
        "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Egress"],
        "egress": [{ "to": peer("db"), "ports": ports }]
    });
    small().policy("shop", "deny", &deny_all()).policy("shop", "db", &db).policy("shop", "web", &web).0
}

/// db takes nothing in, and may send what it likes.
fn db_takes_nothing() -> Files {
    small().policy("shop", "db", &json!({ "podSelector": { "matchLabels": { "app": "db" } } })).0
}

/// Says a line on one end, and whether it came out of the other in time.
fn says(from: &TcpStream, to: &TcpStream, line: &str, patience: Duration) -> bool {
    let mut writer = from;
    writeln!(writer, "{line}").unwrap();
    to.set_read_timeout(Some(patience)).unwrap();
    let mut heard = String::new();
    BufReader::new(to).read_line(&mut heard).is_ok_and(|_| heard.trim_end() == line)
}

#[test]
fn the_side_that_only_answers_may_speak_first() {
    run(async {
        let open = small().0;
        let mut lab = up(&[&open]).await;
        lab.apply(&open).await.unwrap();
        let address = SocketAddr::from(DB);
        let listener = pod(&lab, "shop/db").within(|| TcpListener::bind(address).unwrap()).unwrap();
        let connect = || pod(&lab, "shop/web").within(|| TcpStream::connect(address).unwrap()).unwrap();
        // One connection for each of the two to speak first on.
        let (web, web_first) = (connect(), connect());
        let ((db, _), (db_second, _)) = (listener.accept().unwrap(), listener.accept().unwrap());

        lab.apply(&isolated(DB.1)).await.unwrap();
        assert!(says(&db, &web, "a push", PATIENCE), "the server speaks first");
        assert!(says(&web, &db, "an answer", PATIENCE));
        assert!(says(&web_first, &db_second, "a question", PATIENCE), "the client speaks first");
        assert!(says(&db_second, &web_first, "an answer", PATIENCE));

        lab.apply(&isolated(DB.1 + 1)).await.unwrap();
        assert!(!says(&db, &web, "not any more", SILENCE));
        assert!(!says(&web_first, &db_second, "nor this way", SILENCE));
    });
}

#[test]
fn a_server_that_may_send_does_not_keep_what_it_may_not_take_in() {
    run(async {
        let open = small().0;
        let mut lab = up(&[&open]).await;
        lab.apply(&open).await.unwrap();
        let address = SocketAddr::from(DB);
        let listener = pod(&lab, "shop/db").within(|| TcpListener::bind(address).unwrap()).unwrap();
        let web = pod(&lab, "shop/web").within(|| TcpStream::connect(address).unwrap()).unwrap();
        let (db, _) = listener.accept().unwrap();

        lab.apply(&db_takes_nothing()).await.unwrap();
        // Its segments leave; that web has them never comes back, and no more do web's words.
        let _ = says(&db, &web, "a push", SILENCE);
        assert!(!says(&web, &db, "into nothing", SILENCE));
        let _ = says(&db, &web, "another push", SILENCE);
        assert!(!says(&web, &db, "into nothing", SILENCE));
    });
}
