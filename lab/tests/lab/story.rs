//! The demo's story, cell for cell.

use std::path::Path;

use postern_lab::lab::{Lab, Programs};
use postern_lab::scenario::{Scenario, Snapshot};
use postern_lab::story;

use crate::support::{assert_same, engine, lab_binary, postern_binary, run};

#[test]
fn the_demo_story_is_observed_cell_for_cell() {
    run(async {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/demo");
        let steps = story::read(&directory).unwrap();
        assert_eq!(steps.len(), 6);
        let snapshot = Snapshot::read(&story::base(&directory)).unwrap();
        let programs = Programs { lab: lab_binary(), postern: Some(postern_binary()) };
        let mut lab = Lab::up(programs, Scenario::covering(&[snapshot]).unwrap()).await.unwrap();
        for step in &steps {
            lab.apply(&step.files).await.unwrap();
            let observed = lab.observe().await.unwrap().matrix;
            assert_same(&step.expected, &observed, &step.title);
            assert_same(&step.expected, &engine(&step.files), &format!("{}, by the engine", step.title));
        }
    });
}
