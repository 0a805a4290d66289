use std::cell::RefCell;

use futures::executor::block_on;

use super::super::dump::Dump;
use super::*;

/// A kernel that goes wrong as told: answers to each dump and to each question for a link, the last one again and again.
#[derive(Default)]
struct Kernel {
    links: Vec<Listed>,
    addresses: Vec<Listed>,
    direct: Vec<Direct>,
    asked: RefCell<[usize; 3]>,
}

type Listed = Result<(Vec<RouteNetlinkMessage>, bool), i32>;
type Direct = Result<Option<LinkMessage>, i32>;

fn error(errno: i32) -> DumpError {
    DumpError::Kernel(std::io::Error::from_raw_os_error(errno))
}

impl Kernel {
    fn next<T: Clone>(&self, of: usize, answers: &[T]) -> Option<T> {
        let number = &mut self.asked.borrow_mut()[of];
        *number += 1;
        answers.get((*number - 1).min(answers.len().saturating_sub(1))).cloned()
    }
}

impl Ask for Kernel {
    async fn dump(&self, request: RouteNetlinkMessage) -> Result<Dump, DumpError> {
        let answer = match request {
            RouteNetlinkMessage::GetLink(_) => self.next(0, &self.links),
            RouteNetlinkMessage::GetAddress(it) if it.attributes.is_empty() => None,
            _ => self.next(1, &self.addresses),
        };
        let (messages, interrupted) = answer.unwrap_or(Ok(Default::default())).map_err(error)?;
        Ok(Dump { messages, interrupted })
    }

    async fn link(&self, _: u32) -> Result<Option<LinkMessage>, DumpError> {
        self.next(2, &self.direct).expect("nobody asks for a link").map_err(error)
    }
}

fn link(index: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![
        LinkAttribute::IfName(format!("veth{index}")),
        LinkAttribute::LinkNetNsId(3),
        LinkAttribute::Link(2),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
    ];
    link
}

fn links(indexes: &[u32]) -> Vec<RouteNetlinkMessage> {
    indexes.iter().map(|index| RouteNetlinkMessage::NewLink(link(*index))).collect()
}

fn addresses(last: &[u8]) -> Vec<RouteNetlinkMessage> {
    let message = |last: &u8| {
        let mut message = AddressMessage::default();
        message.attributes.push(AddressAttribute::Address([10, 9, 1, *last].into()));
        RouteNetlinkMessage::NewAddress(message)
    };
    last.iter().map(message).collect()
}

fn known(indexes: &[u32]) -> BTreeMap<u32, Option<Veth>> {
    let veth = |ifindex: u32| Veth {
        ifindex,
        interface: format!("veth{ifindex}"),
        master: 0,
        bridge: None,
        netns: 3,
        addresses: vec![[10, 9, 1, 9].into()],
        uplink: false,
    };
    indexes.iter().map(|index| (*index, Some(veth(*index)))).collect()
}

fn seen(view: &View) -> Vec<u32> {
    view.veths.iter().map(|veth| veth.ifindex).collect()
}

#[test]
fn an_interrupted_dump_is_made_again() {
    let kernel = Kernel {
        links: vec![Ok((links(&[5]), true)), Ok((links(&[5, 6]), false))],
        addresses: vec![Ok((addresses(&[]), true)), Ok((addresses(&[2]), false))],
        ..Kernel::default()
    };
    let view = block_on(look(&kernel, &known(&[]))).unwrap();
    assert_eq!(seen(&view), [5, 6]);
    assert_eq!(view.veths[0].addresses, [IpAddr::from([10, 9, 1, 2])]);
}

#[test]
fn dumps_that_are_all_interrupted_count_together() {
    let kernel = Kernel {
        links: vec![Ok((links(&[5]), true)), Ok((links(&[6]), true)), Ok((links(&[5]), true))],
        addresses: vec![Ok((addresses(&[2]), true)), Ok((addresses(&[1]), true))],
        ..Kernel::default()
    };
    let view = block_on(look(&kernel, &known(&[]))).unwrap();
    assert_eq!(seen(&view), [5, 6]);
    assert_eq!(kernel.asked.borrow()[0], ATTEMPTS, "and then it is enough");
    assert_eq!(view.veths[0].addresses.len(), 2);
    assert_eq!(view.unknown, <[String; 0]>::default());
}

#[test]
fn a_veth_is_gone_when_the_kernel_says_so_of_it() {
    for (direct, expected) in [(Ok(None), vec![5]), (Ok(Some(link(6))), vec![5, 6])] {
        let kernel =
            Kernel { links: vec![Ok((links(&[5]), false))], direct: vec![direct], ..Kernel::default() };
        assert_eq!(seen(&block_on(look(&kernel, &known(&[5, 6]))).unwrap()), expected);
        // One that an earlier agent knew is none to forget either.
        let kernel = Kernel { asked: RefCell::default(), ..kernel };
        let expected_of_earlier = BTreeMap::from([(6, None)]);
        assert_eq!(seen(&block_on(look(&kernel, &expected_of_earlier)).unwrap()), expected);
    }
    // Nothing is known then, and the last look stays.
    let kernel = Kernel { direct: vec![Err(libc::ENOBUFS)], ..Kernel::default() };
    let error = block_on(look(&kernel, &known(&[6]))).unwrap_err();
    assert!(error.to_string().contains("os error 105"), "{error}");
}

#[test]
fn addresses_that_nobody_tells_stay() {
    let kernel = |addresses: &[Listed], direct: &[Direct]| Kernel {
        links: vec![Ok((links(&[5]), false))],
        addresses: addresses.to_vec(),
        direct: direct.to_vec(),
        ..Kernel::default()
    };
    // One veth's fail, and then the other one's do not.
    let failing = kernel(&[Err(libc::ENOMEM)], &[Ok(Some(link(5)))]);
    let view = block_on(look(&failing, &known(&[5]))).unwrap();
    assert_eq!(view.veths[0].addresses, known(&[5])[&5].as_ref().unwrap().addresses);
    let [unknown] = &view.unknown[..] else { panic!("{view:?}") };
    assert!(unknown.contains("veth5") && unknown.contains("os error 12"), "{unknown}");
    // It was a moment's failure, or the other end's move.
    let moment = kernel(&[Err(libc::ENODEV), Ok((addresses(&[2]), false))], &[Ok(Some(link(5)))]);
    let view = block_on(look(&moment, &known(&[5]))).unwrap();
    assert_eq!(view.veths[0].addresses, [IpAddr::from([10, 9, 1, 2])]);
    assert_eq!(view.unknown, <[String; 0]>::default());
    // The namespace is on its way out, and the link is still there: known addresses stay, and it is no failure.
    let leaving = kernel(&[Err(libc::EINVAL)], &[Ok(Some(link(5)))]);
    let view = block_on(look(&leaving, &known(&[5]))).unwrap();
    assert_eq!((view.veths[0].addresses.len(), view.unknown.len()), (1, 0));
    // The link went too.
    let gone = kernel(&[Err(libc::EINVAL)], &[Ok(None)]);
    assert_eq!(seen(&block_on(look(&gone, &known(&[5]))).unwrap()), <[u32; 0]>::default());
}

#[test]
fn packets_leave_by_all_devices_but_the_nodes_own_and_those_on_the_way_in() {
    let of_kind = |index, kind| {
        let mut message = link(index);
        message.attributes.pop();
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
        message
    };
    let mut loopback = link(1);
    loopback.header.link_layer_type = LinkLayerType::Loopback;
    let messages = [loopback, link(2), of_kind(3, InfoKind::Ifb), of_kind(4, InfoKind::Vxlan)];
    let devices = messages.iter().filter_map(|message| way_out((&message.header.index, message)));
    assert_eq!(devices.collect::<Vec<_>>(), [(2, "veth2".to_owned()), (4, "veth4".to_owned())]);
}
