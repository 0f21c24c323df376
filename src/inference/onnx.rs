//! A minimal edit of an ONNX file: frees declared sizes so that a fully convolutional network runs at any size.
//!
//! Pure. CenterFace as published declares 10x3x32x32 and lists its weights as graph inputs; ONNX Runtime then
//! refuses other sizes and cannot fold constants. Only the fields of the protobuf schema named here are read
//! (onnx.proto3: ModelProto, GraphProto, ValueInfoProto, TypeProto, TensorShapeProto); the rest is copied as it is.

/// The file is not a protobuf message of the expected form.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the file is damaged or is not an ONNX model")]
pub struct NotOnnx;

mod field {
    pub const MODEL_IR_VERSION: u32 = 1;
    pub const MODEL_GRAPH: u32 = 7;
    pub const GRAPH_INITIALIZER: u32 = 5;
    pub const GRAPH_INPUT: u32 = 11;
    pub const GRAPH_OUTPUT: u32 = 12;
    pub const GRAPH_VALUE_INFO: u32 = 13;
    pub const TENSOR_NAME: u32 = 8;
    pub const VALUE_NAME: u32 = 1;
    pub const VALUE_TYPE: u32 = 2;
    pub const TYPE_TENSOR: u32 = 1;
    pub const TENSOR_TYPE_SHAPE: u32 = 2;
    pub const SHAPE_DIMENSION: u32 = 1;
    pub const DIMENSION_VALUE: u32 = 1;
    pub const DIMENSION_PARAMETER: u32 = 2;
}

/// From this version of the format on, weights need not be listed as inputs.
const IR_VERSION_OF_HIDDEN_WEIGHTS: u64 = 4;

/// The same network with batch 1, free height and width at its inputs, free outputs, and no weights among its inputs.
///
/// Sizes remembered for values inside the graph go too: they hold for the declared input only.
pub fn free_sizes(model: &[u8]) -> Result<Vec<u8>, NotOnnx> {
    let mut out = Vec::with_capacity(model.len());
    let mut graphs = 0;
    for part in Fields(model) {
        let part = part?;
        match (part.number, part.value) {
            (field::MODEL_IR_VERSION, Value::Number(version)) => {
                put_number(&mut out, part.number, version.max(IR_VERSION_OF_HIDDEN_WEIGHTS));
            }
            (field::MODEL_GRAPH, Value::Bytes(graph)) => {
                graphs += 1;
                put_bytes(&mut out, part.number, &free_graph(graph)?);
            }
            _ => out.extend_from_slice(part.raw),
        }
    }
    if graphs == 1 { Ok(out) } else { Err(NotOnnx) }
}

fn free_graph(graph: &[u8]) -> Result<Vec<u8>, NotOnnx> {
    let mut weights = Vec::new();
    for part in Fields(graph) {
        let part = part?;
        if let (field::GRAPH_INITIALIZER, Value::Bytes(tensor)) = (part.number, part.value) {
            weights.push(first_bytes(tensor, field::TENSOR_NAME)?.unwrap_or_default());
        }
    }
    weights.sort_unstable();
    let mut out = Vec::with_capacity(graph.len());
    for part in Fields(graph) {
        let part = part?;
        match (part.number, part.value) {
            (field::GRAPH_INPUT, Value::Bytes(value)) => {
                let name = first_bytes(value, field::VALUE_NAME)?.unwrap_or_default();
                if weights.binary_search(&name).is_err() {
                    put_bytes(&mut out, part.number, &free_value(value, free_input_dimension)?);
                }
            }
            (field::GRAPH_OUTPUT, Value::Bytes(value)) => {
                put_bytes(&mut out, part.number, &free_value(value, free_output_dimension(name_of(value)?))?);
            }
            (field::GRAPH_VALUE_INFO, Value::Bytes(_)) => {}
            _ => out.extend_from_slice(part.raw),
        }
    }
    Ok(out)
}

fn name_of(value: &[u8]) -> Result<String, NotOnnx> {
    Ok(String::from_utf8_lossy(first_bytes(value, field::VALUE_NAME)?.unwrap_or_default()).into_owned())
}

/// Batch 1, channels as declared, height and width free.
fn free_input_dimension(index: usize, declared: &[u8]) -> Vec<u8> {
    let mut dimension = Vec::new();
    match index {
        0 => put_number(&mut dimension, field::DIMENSION_VALUE, 1),
        2 => put_bytes(&mut dimension, field::DIMENSION_PARAMETER, b"height"),
        3 => put_bytes(&mut dimension, field::DIMENSION_PARAMETER, b"width"),
        _ => dimension.extend_from_slice(declared),
    }
    dimension
}

/// Every dimension free under a name of its own, so that none is taken to equal another.
fn free_output_dimension(output: String) -> impl Fn(usize, &[u8]) -> Vec<u8> {
    move |index, _| {
        let mut dimension = Vec::new();
        put_bytes(&mut dimension, field::DIMENSION_PARAMETER, format!("{output}.{index}").as_bytes());
        dimension
    }
}

fn free_value(value: &[u8], dimension: impl Fn(usize, &[u8]) -> Vec<u8>) -> Result<Vec<u8>, NotOnnx> {
    rewrite(value, field::VALUE_TYPE, |value_type| {
        rewrite(value_type, field::TYPE_TENSOR, |tensor| {
            rewrite(tensor, field::TENSOR_TYPE_SHAPE, |shape| {
                let mut index = 0;
                rewrite(shape, field::SHAPE_DIMENSION, |declared| {
                    let freed = dimension(index, declared);
                    index += 1;
                    Ok(freed)
                })
            })
        })
    })
}

/// Copies `message` with every length-delimited field `number` replaced by what `change` makes of it.
fn rewrite(
    message: &[u8],
    number: u32,
    mut change: impl FnMut(&[u8]) -> Result<Vec<u8>, NotOnnx>,
) -> Result<Vec<u8>, NotOnnx> {
    let mut out = Vec::with_capacity(message.len() + 16);
    for part in Fields(message) {
        let part = part?;
        match part.value {
            Value::Bytes(inner) if part.number == number => put_bytes(&mut out, number, &change(inner)?),
            Value::Bytes(_) | Value::Number(_) | Value::Fixed => out.extend_from_slice(part.raw),
        }
    }
    Ok(out)
}

fn first_bytes(message: &[u8], number: u32) -> Result<Option<&[u8]>, NotOnnx> {
    for part in Fields(message) {
        let part = part?;
        if let Value::Bytes(inner) = part.value
            && part.number == number
        {
            return Ok(Some(inner));
        }
    }
    Ok(None)
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// 4 or 8 bytes whose meaning does not matter here.
    Fixed,
}

struct Part<'a> {
    number: u32,
    value: Value<'a>,
    /// Tag and value as they stand in the message.
    raw: &'a [u8],
}

/// The fields of one message in order; ends after the first damaged one.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn part(&mut self) -> Option<Part<'a>> {
        let start = self.0;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.skip(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.skip(length)?)
            }
            5 => self.skip(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        let raw = start.get(..start.len() - self.0.len())?;
        Some(Part { number, value, raw })
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn skip(&mut self, length: usize) -> Option<&'a [u8]> {
        let (skipped, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(skipped)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Part<'a>, NotOnnx>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_none() {
            self.0 = &[];
        }
        Some(part.ok_or(NotOnnx))
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn message(parts: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, bytes) in parts {
            put_bytes(&mut out, *number, bytes);
        }
        out
    }

    fn value(name: &str, dimensions: &[u64]) -> Vec<u8> {
        let mut shape = Vec::new();
        for size in dimensions {
            let mut dimension = Vec::new();
            put_number(&mut dimension, field::DIMENSION_VALUE, *size);
            put_bytes(&mut shape, field::SHAPE_DIMENSION, &dimension);
        }
        let mut tensor = Vec::new();
        put_number(&mut tensor, 1, 1); // float
        put_bytes(&mut tensor, field::TENSOR_TYPE_SHAPE, &shape);
        let value_type = message(&[(field::TYPE_TENSOR, &tensor)]);
        message(&[(field::VALUE_NAME, name.as_bytes()), (field::VALUE_TYPE, &value_type)])
    }

    /// `y = x + bias` over 10x3x32x32, the bias listed as an input, in the form CenterFace has.
    pub(crate) fn fixed_model() -> Vec<u8> {
        let mut bias = Vec::new();
        for size in [1u64, 3, 1, 1] {
            put_number(&mut bias, 1, size);
        }
        put_number(&mut bias, 2, 1); // float
        put_bytes(&mut bias, field::TENSOR_NAME, b"bias");
        put_bytes(
            &mut bias,
            9,
            &[1.0f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        );
        let node = message(&[(1, b"x"), (1, b"bias"), (2, b"y"), (4, b"Add")]);
        let graph = message(&[
            (1, &node),
            (2, b"tiny"),
            (field::GRAPH_INITIALIZER, &bias),
            (field::GRAPH_INPUT, &value("x", &[10, 3, 32, 32])),
            (field::GRAPH_INPUT, &value("bias", &[1, 3, 1, 1])),
            (field::GRAPH_OUTPUT, &value("y", &[10, 3, 32, 32])),
            (field::GRAPH_VALUE_INFO, &value("inner", &[10, 3, 32, 32])),
        ]);
        let mut opset = Vec::new();
        put_number(&mut opset, 2, 9);
        let mut model = Vec::new();
        put_number(&mut model, field::MODEL_IR_VERSION, 3);
        put_bytes(&mut model, field::MODEL_GRAPH, &graph);
        put_bytes(&mut model, 8, &opset);
        model
    }

    fn graph_values(model: &[u8], number: u32) -> Vec<Vec<u8>> {
        let graph = first_bytes(model, field::MODEL_GRAPH).expect("sound").expect("a graph");
        let parts = Fields(graph).map(|part| part.expect("sound"));
        let wanted = parts.filter(|part| part.number == number);
        wanted
            .filter_map(|part| if let Value::Bytes(b) = part.value { Some(b.to_vec()) } else { None })
            .collect()
    }

    #[test]
    fn sizes_are_freed_and_weights_leave_the_inputs() {
        let freed = free_sizes(&fixed_model()).expect("a model");
        let inputs = graph_values(&freed, field::GRAPH_INPUT);
        assert_eq!(inputs.len(), 1);
        let text = String::from_utf8_lossy(&inputs[0]).into_owned();
        assert!(text.contains("height") && text.contains("width"), "{text:?}");
        assert!(String::from_utf8_lossy(&graph_values(&freed, field::GRAPH_OUTPUT)[0]).contains("y.0"));
        assert_eq!(
            graph_values(&freed, field::GRAPH_INITIALIZER),
            graph_values(&fixed_model(), field::GRAPH_INITIALIZER)
        );
        assert!(graph_values(&freed, field::GRAPH_VALUE_INFO).is_empty());
        assert_eq!(freed[..2], [8, 4], "weights outside the inputs need IR version 4");
        assert_eq!(free_sizes(&freed).expect("a model"), freed, "a freed model stays as it is");
    }

    #[test]
    fn a_cut_or_foreign_file_is_refused() {
        let model = fixed_model();
        for cut in 1..model.len() {
            // Cuts at field boundaries leave a shorter but sound message; it must only not crash.
            let _ = free_sizes(&model[..cut]);
        }
        assert_eq!(free_sizes(&model[..model.len() / 2]), Err(NotOnnx));
        assert_eq!(free_sizes(b"<html>404</html>"), Err(NotOnnx));
        assert_eq!(free_sizes(b""), Err(NotOnnx));
    }
}
