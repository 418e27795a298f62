//! Real servers, one file each.

pub mod mysql;
pub mod postgres;
pub mod redis;
pub mod s3;
