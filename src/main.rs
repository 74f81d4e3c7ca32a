use std::process::ExitCode;

fn main() -> ExitCode {
    wireroom::cli::main()
}
