//! A lab's agents: started, waited for, read back, started from nothing.

use std::collections::BTreeMap;
use std::path::Path;

use futures::future::try_join_all;
use postern::manifests;
use serde_json::Value;

use super::{Applied, Error, Lab};
use crate::agent::{self, Agent, Origin};

impl Lab {
    pub(super) fn start_agents(&mut self) -> Result<(), Error> {
        if let Some(program) = self.programs.postern.clone() {
            for (node, netns) in self.topology.nodes() {
                self.agents.push(Agent::start(node, netns, self.agent_paths(&program, node), &[])?);
            }
        }
        Ok(())
    }

    fn agent_paths(&self, program: &Path, node: &str) -> agent::Paths {
        let directory = self.run.directory();
        agent::Paths {
            program: program.to_owned(),
            launcher: self.programs.lab.clone(),
            origin: Origin::Manifests(self.copy.directory().to_owned()),
            bpffs: self.run.bpffs(node),
            socket: directory.join(format!("{node}.sock")),
            log: directory.join(format!("{node}.log")),
        }
    }

    /// Waits until the working copy, as it is now, is enforced by every agent.
    ///
    /// # Errors
    /// An agent ended or takes too long.
    pub async fn enforced(&mut self) -> Result<Applied, Error> {
        let path = self.copy.directory().to_owned();
        let digest = manifests::digest(&path).map_err(|error| Error::Digest { path, error })?;
        let waiting = self.agents.iter_mut().map(|agent| {
            let digest = &digest;
            async move { Ok::<_, Error>((agent.node().to_owned(), agent.wait_for(digest).await?)) }
        });
        let statuses = try_join_all(waiting).await?;
        let times = statuses.into_iter().map(|(node, status)| (node, status.enforced_in_ms));
        Ok(Applied { enforced_in_ms: times.collect(), ..Applied::default() })
    }

    /// What each agent's maps enforce, by node, as `postern dump` prints it.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub async fn dump(&self) -> Result<BTreeMap<String, Value>, Error> {
        let dumps = self
            .agents
            .iter()
            .map(|agent| async { Ok::<_, Error>((agent.node().to_owned(), agent.dump().await?)) });
        Ok(try_join_all(dumps).await?.into_iter().collect())
    }

    /// Kills the agents, removes all that they pinned, and starts them again.
    ///
    /// # Errors
    /// Something cannot be removed or started.
    pub async fn restart_from_nothing(&mut self) -> Result<(), Error> {
        for agent in &mut self.agents {
            agent.kill().await;
            agent.forget()?;
            agent.restart()?;
        }
        Ok(())
    }
}
