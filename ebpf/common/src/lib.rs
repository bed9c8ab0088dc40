//! Map keys and values shared by the kernel side and the loader.
#![no_std]
