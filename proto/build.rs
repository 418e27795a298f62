//! Compiles the .proto files with protox, so that no protoc is needed to build.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let file = "keepsake/agent/v1/agent.proto";
    println!("cargo::rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("agent.binpb");
    std::fs::write(out, descriptors.encode_to_vec())?;
    // A set's identity passes in `Unsealing`, keys and tokens in the others: their Debug is written by hand and says nothing.
    let secret = ["Unsealing", "ConfigEntry", "ConfigString", "ConfigField", "ConfigDifference", "ConfigSet"];
    let secret = secret.map(|message| format!(".keepsake.agent.v1.{message}"));
    tonic_prost_build::configure().bytes(".").skip_debug(secret).compile_fds(descriptors)?;
    Ok(())
}
