//! What probes and Prometheus are told.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use postern_cluster::faulty::Fault;
use postern_lab::netns::Netns;

use super::faults::{failures, up};
use super::objects::{deny, small, with};
use super::world::{Via, World, with_api};

/// Asks the agent of a node, on its loopback. Returns status line and body.
fn get(netns: &Netns, path: &str) -> (String, String) {
    let answer = netns.within(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9474").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn ask(world: &World<'_>, path: &str) -> (String, String) {
    let (_, netns) = world.lab.topology().nodes().next().unwrap();
    get(netns, path)
}

#[test]
fn readiness_waits_for_lists_and_pods_and_outlives_the_api_server() {
    with_api(async |api| {
        let before = with(&small(), &deny("shop"));
        let mut world = World::up(api, &[&before], Via::Faulty).await;
        world.agents[0].kill().await;
        world.faulty[0].set(Fault::Status(503));
        world.agents[0].restart().unwrap();
        world.status(|status| failures(status, "failing") > 6).await;
        assert_eq!(ask(&world, "/livez").0, "HTTP/1.1 200 OK");
        let (status, body) = ask(&world, "/readyz");
        assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
        assert!(body.contains("waiting for the first list of Pods"), "{body}");

        world.faulty[0].set(Fault::None);
        world.apply(&before).await;
        assert_eq!(ask(&world, "/readyz"), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
        world.status(up).await;
        let page = ask(&world, "/metrics").1;
        for line in [
            "postern_ready 1",
            "postern_synced 1",
            "postern_watch_up{kind=\"Pod\"} 1",
            "postern_objects{kind=\"Pod\"} 3",
            "postern_endpoints{state=\"isolated\"} 2",
            "# EOF",
        ] {
            assert!(page.lines().any(|it| it == line), "{line} is not in\n{page}");
        }
        assert!(page.contains("postern_watch_failures_total{kind=\"Pod\",cause=\"failing\"}"), "{page}");

        world.faulty[0].set(Fault::Status(503));
        world.faulty[0].close();
        world.status(|status| status.watches.iter().all(|watch| !watch.up)).await;
        assert_eq!(ask(&world, "/readyz").0, "HTTP/1.1 200 OK");
        assert!(ask(&world, "/metrics").1.contains("postern_watch_up{kind=\"Pod\"} 0"));
        assert_eq!(ask(&world, "/elsewhere").0, "HTTP/1.1 404 Not Found");
    });
}
