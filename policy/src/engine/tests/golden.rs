//! Policies in, compiled classes and verdicts out, in words.
#![expect(clippy::needless_raw_string_hashes, reason = "expect-test writes them when it updates")]

use expect_test::{Expect, expect};

use crate::engine::{Engine, Scope};
use crate::model::{Object, Protocol};
use crate::tables::ClassId;
use crate::testkit::build::{block, named, namespace, pod, pods, pods_of, policy, range, rule, tcp};

fn check(objects: impl IntoIterator<Item = Object>, expected: &Expect) {
    let mut engine = Engine::new(Scope::Node("node-a".into()), ClassId(1));
    for object in objects {
        engine.apply(object);
    }
    expected.assert_eq(&engine.dump());
}

fn shop() -> Vec<Object> {
    let app = |name: &str, address: &str| pod("production", name, address).labelled(&[("app", name)]);
    vec![
        namespace("production", &[]),
        namespace("kube-system", &[]),
        Object::Pod(app("frontend", "10.0.0.1")),
        Object::Pod(app("api", "10.0.0.2").port("http", 8000, Protocol::Tcp)),
        Object::Pod(app("db", "10.0.1.3").on("node-b").port("sql", 5432, Protocol::Tcp)),
        Object::Pod(pod("kube-system", "dns", "10.0.1.4").on("node-b").labelled(&[("k8s-app", "kube-dns")])),
    ]
}

fn with(policies: impl IntoIterator<Item = crate::model::NetworkPolicy>) -> Vec<Object> {
    shop().into_iter().chain(policies.into_iter().map(Object::NetworkPolicy)).collect()
}

#[test]
fn deny_all() {
    check(
        with([policy("production", "deny-all").ingress([]).egress([])]),
        &expect![[r#"
        subject production/api [10.0.0.2]
          ingress: Ingress nothing
          egress:  Egress nothing
        subject production/frontend [10.0.0.1]
          ingress: Ingress nothing
          egress:  Egress nothing
    "#]],
    );
}

#[test]
fn required_paths() {
    let dns = [tcp(53), range(Protocol::Udp, 53, 53)];
    check(
        with([
            policy("production", "deny-all").ingress([]).egress([]),
            policy("production", "api").selecting(&[("app", "api")]).ingress([rule(
                [pods("production", &[("app", "frontend")])],
                [named(Protocol::Tcp, "http")],
            )]),
            policy("production", "api-out")
                .selecting(&[("app", "api")])
                .egress([rule([pods("production", &[("app", "db")])], [named(Protocol::Tcp, "sql")])]),
            policy("production", "dns").egress([rule(
                [pods_of(&[("kubernetes.io/metadata.name", "kube-system")], &[("k8s-app", "kube-dns")])],
                dns,
            )]),
        ]),
        &expect![[r#"
            subject production/api [10.0.0.2]
              ingress: Ingress production:{app=frontend} TCP/8000
              egress:  Egress ns{kubernetes.io/metadata.name=kube-system}:{k8s-app=kube-dns} TCP/53 UDP/53; production:{app=db} nothing TCP/sql
            subject production/frontend [10.0.0.1]
              ingress: Ingress nothing
              egress:  Egress ns{kubernetes.io/metadata.name=kube-system}:{k8s-app=kube-dns} TCP/53 UDP/53
            peer 10.0.0.1/32: production:{app=frontend}
            peer 10.0.1.3/32: TCP/sql=5432 & production:{app=db}
            peer 10.0.1.4/32: ns{kubernetes.io/metadata.name=kube-system}:{k8s-app=kube-dns}
            verdict [Egress ns{kubernetes.io/metadata.name=kube-system}:{k8s-app=kube-dns} TCP/53 UDP/53; production:{app=db} nothing TCP/sql] x [TCP/sql=5432 & production:{app=db}] = TCP/5432
            verdict [Egress ns{kubernetes.io/metadata.name=kube-system}:{k8s-app=kube-dns} TCP/53 UDP/53; production:{app=db} nothing TCP/sql] x [ns{kubernetes.io/metadata.name=kube-system}:{k8s-app=kube-dns}] = TCP/53 UDP/53
            verdict [Egress ns{kubernetes.io/metadata.name=kube-system}:{k8s-app=kube-dns} TCP/53 UDP/53] x [ns{kubernetes.io/metadata.name=kube-system}:{k8s-app=kube-dns}] = TCP/53 UDP/53
            verdict [Ingress production:{app=frontend} TCP/8000] x [production:{app=frontend}] = TCP/8000
        "#]],
    );
}

#[test]
fn blocks() {
    check(
        with([policy("production", "out").selecting(&[("app", "frontend")]).egress([
            rule([block("0.0.0.0/0", &["10.0.0.0/8"])], [tcp(443)]),
            rule([block("10.0.1.0/24", &["10.0.1.3/32"])], []),
            rule([pods("production", &[("app", "db")])], [range(Protocol::Tcp, 5432, 5440)]),
        ])]),
        &expect![[r#"
            subject production/frontend [10.0.0.1]
              ingress: not isolated
              egress:  Egress 0.0.0.0/0-(10.0.0.0/8) TCP/443; 10.0.1.0/24-(10.0.1.3/32) everything; production:{app=db} TCP/5432-5440
            peer 0.0.0.0/0: 0.0.0.0/0-(10.0.0.0/8)
            peer 10.0.0.0/8: nothing known
            peer 10.0.1.0/24: 10.0.1.0/24-(10.0.1.3/32)
            peer 10.0.1.3/32: production:{app=db}
            verdict [Egress 0.0.0.0/0-(10.0.0.0/8) TCP/443; 10.0.1.0/24-(10.0.1.3/32) everything; production:{app=db} TCP/5432-5440] x [0.0.0.0/0-(10.0.0.0/8)] = TCP/443
            verdict [Egress 0.0.0.0/0-(10.0.0.0/8) TCP/443; 10.0.1.0/24-(10.0.1.3/32) everything; production:{app=db} TCP/5432-5440] x [10.0.1.0/24-(10.0.1.3/32)] = everything
            verdict [Egress 0.0.0.0/0-(10.0.0.0/8) TCP/443; 10.0.1.0/24-(10.0.1.3/32) everything; production:{app=db} TCP/5432-5440] x [production:{app=db}] = TCP/5432-5440
        "#]],
    );
}

#[test]
fn what_is_covered_takes_no_attribute_into_use() {
    check(
        with([policy("production", "open")
            .ingress([rule([], [tcp(80)]), rule([pods("production", &[("app", "db")])], [tcp(80)])])]),
        &expect![[r#"
            subject production/api [10.0.0.2]
              ingress: Ingress anyone TCP/80
              egress:  not isolated
            subject production/frontend [10.0.0.1]
              ingress: Ingress anyone TCP/80
              egress:  not isolated
            verdict [Ingress anyone TCP/80] x [nothing known] = TCP/80
        "#]],
    );
}
