//! What passes: every pod asks every other on every port, with one command. Questions start one shortly after the other,
//! so that a small machine is not too busy to answer; those that get no answer wait side by side.

use std::fmt::Write as _;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use kube::{Api, Client};
use postern_lab::matrix::{Key, Matrix};
use postern_policy::matrix::IpFamily;
use postern_policy::model::Protocol;
use tokio::io::AsyncReadExt;

use super::Error;
use super::cast::{Cast, Member, PORTS, Tool, namespace};

/// One cell: who asks whom, and how.
pub(super) struct Question<'a> {
    pub(super) from: &'a Member,
    pub(super) to: &'a Member,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    tool: Tool,
    /// Through the destination's Service.
    service: bool,
}

impl Question<'_> {
    /// Its place in a matrix.
    pub(super) fn key(&self) -> Key {
        let to = self.to.title();
        let to = if self.service { format!("service/{to}") } else { to };
        Key {
            from: self.from.title(),
            to,
            port: self.port,
            protocol: self.protocol,
            ip_family: IpFamily::of(self.to.address),
        }
    }

    /// A command that succeeds when it gets an answer.
    fn command(&self) -> String {
        let address = if self.service { self.to.service } else { self.to.address };
        let port = self.port;
        match self.tool {
            Tool::Curl => {
                format!("curl -s -o /dev/null --connect-timeout 2 --max-time 4 http://{address}:{port}/")
            }
            Tool::Netcat => format!("[ \"$(nc -w 2 {address} {port} </dev/null)\" = here ]"),
            // Datagrams get lost where many arrive at once.
            Tool::NetcatUdp => format!(
                "{{ for try in 1 2 3; do [ \"$(echo | nc -u -w 1 {address} {port})\" = here ] && exit; done; false; }}"
            ),
            // A server that is busy with another one's test was reached.
            Tool::Iperf => format!(
                "iperf3 --client {address} --port {port} --bytes 1K --connect-timeout 2000 2>&1 | \
                 grep -q -e 'iperf Done' -e 'server is busy'"
            ),
            // The answer is that there is no such name.
            Tool::Nslookup => {
                format!(
                    "nslookup -timeout=1 -retry=2 -port={port} postern.test. {address} 2>&1 | grep -q NXDOMAIN"
                )
            }
        }
    }
}

/// Everyone to everyone else.
pub(super) fn questions(cast: &Cast) -> impl Iterator<Item = Question<'_>> {
    let pairs = cast.pods.iter().flat_map(|from| cast.pods.iter().map(move |to| (from, to)));
    pairs.filter(|(from, to)| !std::ptr::eq(*from, *to)).flat_map(|(from, to)| {
        let direct = PORTS.map(|(port, protocol, tool)| (port, protocol, tool, false));
        let through_service = cast.services.then_some((80, Protocol::Tcp, Tool::Curl, true));
        direct.into_iter().chain(through_service).map(move |(port, protocol, tool, service)| Question {
            from,
            to,
            port,
            protocol,
            tool,
            service,
        })
    })
}

/// Asks those that are wanted.
pub(super) async fn matrix(
    client: &Client,
    cast: &Cast,
    wanted: impl Fn(&Key) -> bool,
) -> Result<Matrix, Error> {
    let answers = try_join_all(cast.pods.iter().map(|pod| ask(client, cast, pod, &wanted))).await?;
    Ok(answers.into_iter().flatten().collect())
}

/// Asks what one pod has to ask.
async fn ask(
    client: &Client,
    cast: &Cast,
    pod: &Member,
    wanted: &impl Fn(&Key) -> bool,
) -> Result<Matrix, Error> {
    let of_pod = questions(cast).filter(|question| std::ptr::eq(question.from, pod));
    let questions: Vec<Question<'_>> = of_pod.filter(|question| wanted(&question.key())).collect();
    if questions.is_empty() {
        return Ok(Matrix::new());
    }
    let mut script = String::new();
    for (number, question) in questions.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = writeln!(script, "( ( {} ) && echo {number} ) & sleep 0.04", question.command());
    }
    script.push_str("wait; echo done");
    let said = execute(client, pod, &script).await?;
    let mut lines: Vec<&str> = said.lines().map(str::trim).collect();
    if lines.pop() != Some("done") {
        return Err(Error::Exec { pod: pod.title(), reason: format!("it said only: {said}") });
    }
    let reached = |number: usize| lines.contains(&number.to_string().as_str());
    Ok(questions
        .iter()
        .enumerate()
        .map(|(number, question)| (question.key(), reached(number).into()))
        .collect())
}

/// Runs a shell script in a pod, as `kubectl exec` does, and returns what it prints.
async fn execute(client: &Client, pod: &Member, script: &str) -> Result<String, Error> {
    let failed = |reason: String| Error::Exec { pod: pod.title(), reason };
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace(pod.namespace));
    let parameters = AttachParams::default().stdout(true).stderr(false);
    let process = pods.exec(pod.name, ["sh", "-c", script], &parameters).await;
    let mut process = process.map_err(|error| failed(error.to_string()))?;
    let mut said = String::new();
    if let Some(mut output) = process.stdout() {
        output.read_to_string(&mut said).await.map_err(|error| failed(error.to_string()))?;
    }
    process.join().await.map_err(|error| failed(error.to_string()))?;
    Ok(said)
}
