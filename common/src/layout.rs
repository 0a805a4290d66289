//! Declares map types so that their layout is fixed, checked, and free of padding.

/// Declares `repr(C)` structs with every field's offset and the whole size asserted at compile time. A field that
/// does not start where the one before it ended is padding, which the kernel would hash and compare: the sum of field
/// sizes must equal the struct's.
///
/// Only integers, arrays of them, and other types declared here belong in a map: no `bool`, enum, `Option`, `usize`.
macro_rules! map_types {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident [$size:literal] {
            $( $(#[$field_meta:meta])* pub $field:ident : $ty:ty = $offset:literal, )+
        }
    )+) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $ty, )+
        }

        const _: () = {
            assert!(core::mem::size_of::<$name>() == $size, concat!(stringify!($name), ": wrong size"));
            assert!(
                0 $( + core::mem::size_of::<$ty>() )+ == $size,
                concat!(stringify!($name), ": has padding")
            );
            $( assert!(
                core::mem::offset_of!($name, $field) == $offset,
                concat!(stringify!($name), ".", stringify!($field), ": wrong offset")
            ); )+
        };

        #[cfg(feature = "user")]
        #[expect(unsafe_code, reason = "aya::Pod is how a type says that bpf(2) may copy it byte by byte")]
        // SAFETY: `repr(C)`, no padding (asserted above), and every bit pattern of its integer fields is valid.
        unsafe impl aya::Pod for $name {}
    )+};
}
