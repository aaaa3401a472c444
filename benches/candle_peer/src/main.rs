//! `candle_peer FILE PROMPT_TOKENS TOKENS`: tokens a second that candle's quantised Llama makes of a GGUF file, of a
//! prompt and one after the other behind it, as one line: `prefill decode`.

use std::fs::File;
use std::time::Instant;

use candle_core::quantized::gguf_file;
use candle_core::{Device, Result, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, prompt, tokens] = arguments.as_slice() else {
        candle_core::bail!("candle_peer FILE PROMPT_TOKENS TOKENS");
    };
    let number = |text: &String| text.parse::<usize>().map_err(candle_core::Error::wrap);
    let (prompt, tokens) = (number(prompt)?, number(tokens)?);
    let mut file = File::open(path)?;
    let content = gguf_file::Content::read(&mut file)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
    let ids = |count: usize, from: usize| {
        let ids: Vec<u32> = (0..count as u32)
            .map(|n| (n + from as u32).wrapping_mul(2_654_435_761) % 8_000)
            .collect();
        Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)
    };
    // What is used for the first time is slow.
    model.forward(&ids(1, 0)?, 0)?;
    let began = Instant::now();
    model.forward(&ids(prompt, 0)?, 0)?.to_device(&Device::Cpu)?;
    let prefill = prompt as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    for index in 0..tokens {
        model.forward(&ids(1, prompt + index)?, prompt + index)?;
    }
    let decode = tokens as f64 / began.elapsed().as_secs_f64();
    println!("{prefill:.2} {decode:.2}");
    Ok(())
}
