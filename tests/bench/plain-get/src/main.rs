//! plain-get URL COUNT < tokens: asks for the current user with one token after the other, COUNT times in all, on one
//! connection. Prints the time of each request in microseconds.

use std::error::Error;
use std::io::{self, BufRead};
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, count] = arguments.as_slice() else { return Err("usage: plain-get URL COUNT < tokens".into()) };
    let tokens: Vec<String> = io::stdin().lock().lines().collect::<Result<_, _>>()?;
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    for token in tokens.iter().cycle().take(count.parse()?) {
        let begun = Instant::now();
        let mut answer = agent.get(url).header("Authorization", format!("Bearer {token}")).call()?;
        answer.body_mut().read_to_vec()?;
        println!("{}", begun.elapsed().as_micros());
    }
    Ok(())
}
