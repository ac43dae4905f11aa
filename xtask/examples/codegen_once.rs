#[path = "../src/codegen.rs"]
mod codegen;
fn main() {
    codegen::run().unwrap()
}
