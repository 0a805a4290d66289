//! Which flow a packet is of, and where that stands, or may take its place: the parts of a packet's context that modules of this folder
//! fill.

use postern_common::conntrack::Identity;

/// Among established flows. Filled once the packet is read.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct EstablishedCursor<K> {
    /// Key of the packet's flow.
    pub key: K,
    /// 1: there is no established flow with that key, as far as was looked already.
    pub absent: u8,
}

/// Among half-open flows. Filled by [`super::half_open`]: who has a [`super::half_open::Bucket`] has its first fields, and its other ones
/// once a flow was sought.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HalfOpenCursor {
    /// What tells the packet's flow from other ones.
    pub(super) identity: Identity,
    /// Hash of that.
    pub(super) hash: u64,
    /// Index in its row at which a flow was found, or else may take its place.
    pub(super) way: u32,
    /// 1: that is in its overflow row.
    pub(super) in_overflow: u32,
    /// Index in its first row at which it may take its place, if there is no overflow row.
    pub(super) base_way: u32,
    /// When the flow expires that is there.
    pub(super) first: u64,
}

/// In the directory of established flows. Filled by [`super::directory`], for itself.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct DirectoryCursor<K> {
    /// Where in its row the flow may take its place.
    pub(super) way: u32,
    /// When the flow expires that is there.
    pub(super) first: u64,
    /// Key of the flow that is there.
    pub(super) displaced: K,
    /// Key of a flow that is looked at.
    pub(super) candidate: K,
}

/// What a packet does to its flow. No enum: the compiler would take for granted that memory holds one of its values.
pub mod step {
    /// Nothing that is left to do.
    pub const NOTHING: u8 = 0;
    /// It goes on in a half-open flow.
    pub const HALF_OPEN: u8 = 1;
    /// It may establish it.
    pub const ESTABLISHES: u8 = 2;
    /// It may establish a flow that nothing was known of.
    pub const MIDSTREAM: u8 = 3;
}
