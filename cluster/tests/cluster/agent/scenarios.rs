//! The lab's scenarios, with the API server in the place of the folder: the same hand-written matrices.

use std::path::Path;

use postern_lab::matrix::differences;
use postern_lab::story;
use postern_lab::working_copy::{self, Files};

use super::world::{Via, World, with_api};

/// What no API server takes: two addresses of one family in a pod (`status.podIPs`), and an empty peer.
const NOT_IN_AN_API_SERVER: [&str; 2] = ["addresses", "rules"];

#[test]
fn every_scenario_means_the_same_through_an_api_server() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/scenarios");
    let folders = working_copy::folders(&directory).unwrap();
    let folders: Vec<_> = folders.iter().filter(|it| !NOT_IN_AN_API_SERVER.contains(&it.as_str())).collect();
    assert!(folders.len() > 15, "{folders:?}");
    with_api(async |api| {
        for folder in folders {
            let steps = story::read(&directory.join(folder)).unwrap();
            let states: Vec<&Files> = steps.iter().map(|step| &step.files).collect();
            let mut world = World::up(api, &states, Via::Relay).await;
            for (number, step) in (1..).zip(&steps) {
                world.apply(&step.files).await;
                let observed = world.lab.observe().await.unwrap().matrix;
                let differing = differences(&step.expected, &observed);
                let differing: Vec<String> = differing.iter().map(ToString::to_string).collect();
                assert!(
                    differing.is_empty(),
                    "{folder}, step {number} ({}):\n{}",
                    step.title,
                    differing.join("\n")
                );
            }
            drop(world);
            api.mirror.apply(&Files::new()).await.unwrap();
        }
    });
}
