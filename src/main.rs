//! The `tidegate` program.

use std::process::ExitCode;

use clap::Parser;
use tidegate::cli::{self, Cli};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            ExitCode::from(cli::exit_code(&error))
        }
    }
}
