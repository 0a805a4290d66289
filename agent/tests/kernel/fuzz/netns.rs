//! Many interfaces to show frames on, so that each sequence begins without flows: everything that the programs
//! remember is by interface.

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{LinkUnspec, LinkVeth};

use super::world::VETH_MAC;

/// How many pairs of veths.
const PAIRS: usize = 256;

/// Puts this thread, and no other one, into a network namespace of its own, with veths that nothing uses, all of one MAC
/// address. Returns their indexes. All goes away with the thread.
pub(super) fn enter() -> Vec<u32> {
    unshare(CloneFlags::CLONE_NEWNET).expect("unshare; these tests need root");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        let connection = tokio::spawn(connection);
        for number in 0..PAIRS {
            let [near, far] = names(number);
            let veth = LinkVeth::new(&near, &far).address(VETH_MAC.to_vec()).build();
            handle.link().add(veth).execute().await.unwrap();
            let far = LinkUnspec::new_with_name(&far).address(VETH_MAC.to_vec()).build();
            handle.link().set(far).execute().await.unwrap();
        }
        connection.abort();
    });
    (0..PAIRS).flat_map(names).map(|name| if_nametoindex(name.as_str()).unwrap()).collect()
}

fn names(number: usize) -> [String; 2] {
    [format!("near{number}"), format!("far{number}")]
}
