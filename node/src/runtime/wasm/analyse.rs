//! Reads a module and says what of it is state, or every reason why it cannot be a service. Runs and compiles nothing.

use std::collections::BTreeSet;

use wasmparser::{
    ExternalKind, FuncType, MemoryType, Operator, Parser, Payload, TableType, TypeRef, ValType, Validator, WasmFeatures,
};

use super::engine::FEATURES;
use super::wasi;
use crate::runtime::limits::{CHUNK_BYTES, GLOBALS_MAX, MEMORIES_MAX, MODULE_BYTES_MAX, TABLE_ELEMENTS_MAX};
use crate::runtime::{Blocker, GlobalValue};

/// Exports with this prefix are made by the instrumentation.
const RESERVED_PREFIX: &str = "__wizer_";

/// Pages of 64 KiB that a 32-bit memory can have.
const PAGES_MAX: u64 = 1 << 16;

/// Writes the state out for another version of the code.
pub(super) const SAVE: &str = "wayfare_save";
/// Takes what another version of the code wrote.
pub(super) const LOAD: &str = "wayfare_load";

/// The exports of the ABI, and their types in letters as in [`wasi::Offered`].
const REQUIRED: [(&str, &str, &str); 2] =
    [("wayfare_buffer", "i:i", "a function (i32) -> i32"), ("wayfare_handle", "i:I", "a function (i32) -> i64")];
const OPTIONAL: [(&str, &str, &str); 3] = [
    ("_initialize", ":", "a function () -> ()"),
    (SAVE, ":I", "a function () -> i64"),
    (LOAD, "i:i", "a function (i32) -> i32"),
];
const MEMORY: (&str, &str) = ("memory", "linear memory 0");

/// What of a module is state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Least and greatest pages of each memory, by index.
    pub(super) memories: Vec<(u64, u64)>,
    /// Index of each mutable global, and a zero of its type.
    pub(super) globals: Vec<(u32, GlobalValue)>,
}

impl Shape {
    /// Bytes of all memories at their start.
    pub(super) fn bytes_min(&self) -> u64 {
        self.memories.iter().map(|(pages, _)| pages.saturating_mul(CHUNK_BYTES as u64)).fold(0, u64::saturating_add)
    }

    /// The name under which the instrumented module exports memory `index`.
    pub(super) fn memory_name(index: usize) -> String {
        format!("{RESERVED_PREFIX}memory_{index}")
    }

    /// The name under which the instrumented module exports the global with this index.
    pub(super) fn global_name(index: u32) -> String {
        format!("{RESERVED_PREFIX}global_{index}")
    }
}

/// The module's state, or all reasons why it cannot be a service that may use `memory_bytes_max`.
pub(super) fn analyse(module: &[u8], memory_bytes_max: u64) -> Result<Shape, Vec<Blocker>> {
    if !module.starts_with(b"\0asm") {
        return Err(vec![Blocker::NotWebAssembly]);
    }
    if Parser::is_component(module) {
        return Err(vec![Blocker::Component]);
    }
    if module.len() > MODULE_BYTES_MAX {
        return Err(vec![Blocker::ModuleTooLarge { bytes: module.len() }]);
    }
    let invalid = |error: wasmparser::BinaryReaderError| vec![Blocker::Invalid { reason: error.to_string() }];
    // First with every proposal: what is valid in any of them gets a name.
    Validator::new_with_features(WasmFeatures::all()).validate_all(module).map_err(invalid)?;
    let mut reader = Reader::default();
    for payload in Parser::new(0).parse_all(module) {
        payload.and_then(|payload| reader.payload(payload)).map_err(invalid)?;
    }
    let (shape, mut blockers) = reader.finish();
    let bytes = shape.bytes_min();
    if bytes > memory_bytes_max {
        blockers.insert(Blocker::MemoryTooLarge { bytes, bytes_max: memory_bytes_max });
    }
    let named =
        |blocker: &Blocker| matches!(blocker, Blocker::Threads | Blocker::Memory64 { .. } | Blocker::PageSize { .. });
    if !blockers.iter().any(named)
        && let Err(error) = Validator::new_with_features(FEATURES).validate_all(module)
    {
        blockers.insert(Blocker::UnsupportedFeature { reason: error.to_string() });
    }
    if blockers.is_empty() { Ok(shape) } else { Err(blockers.into_iter().collect()) }
}

/// `i:I` for a function type (i32) -> i64; `?` stands for a type that the ABI does not use.
fn letters(ty: &FuncType) -> String {
    let letter = |ty: &ValType| match ty {
        ValType::I32 => 'i',
        ValType::I64 => 'I',
        ValType::F32 | ValType::F64 | ValType::V128 | ValType::Ref(_) => '?',
    };
    ty.params().iter().map(letter).chain([':']).chain(ty.results().iter().map(letter)).collect()
}

#[derive(Default)]
struct Reader {
    /// By type index; `None` for a type that is not a function.
    types: Vec<Option<String>>,
    /// Type index of each function, imported ones first.
    functions: Vec<u32>,
    memories: Vec<MemoryType>,
    globals: Vec<(u32, GlobalValue)>,
    globals_seen: u32,
    tables_seen: u32,
    exports: Vec<(String, ExternalKind, u32)>,
    blockers: BTreeSet<Blocker>,
}

impl Reader {
    fn payload(&mut self, payload: Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::TypeSection(groups) => {
                for group in groups {
                    for ty in group?.into_types() {
                        let function = match &ty.composite_type.inner {
                            wasmparser::CompositeInnerType::Func(function) => Some(letters(function)),
                            _ => None,
                        };
                        self.types.push(function);
                    }
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import?;
                    self.import(import.module, import.name, import.ty);
                }
            }
            Payload::FunctionSection(functions) => {
                for function in functions {
                    self.functions.push(function?);
                }
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    self.table(&table?.ty);
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    self.memory(memory?);
                }
            }
            Payload::GlobalSection(globals) => {
                for global in globals {
                    self.global(&global?.ty);
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    self.exports.push((export.name.to_owned(), export.kind, export.index));
                }
            }
            Payload::StartSection { .. } => {
                self.blockers.insert(Blocker::StartFunction);
            }
            Payload::CodeSectionEntry(body) => {
                let mut operators = body.get_operators_reader()?;
                while !operators.eof() {
                    self.operator(&operators.read()?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn import(&mut self, module: &str, name: &str, ty: TypeRef) {
        let (module, name) = (module.to_owned(), name.to_owned());
        let blocker = match ty {
            TypeRef::Func(ty) | TypeRef::FuncExact(ty) => {
                self.functions.push(ty);
                let found = self.types.get(ty as usize).cloned().flatten();
                match wasi::OFFERED.iter().find(|offered| module == wasi::MODULE && offered.name == name) {
                    Some(offered) if found.as_deref() == Some(offered.ty) => return,
                    Some(_) => Blocker::ImportType { module, name },
                    None => Blocker::Import { module, name },
                }
            }
            TypeRef::Memory(ty) => {
                self.memories.push(ty);
                if ty.shared {
                    self.blockers.insert(Blocker::Threads);
                }
                Blocker::ImportedMemory { module, name }
            }
            TypeRef::Table(_) => {
                self.tables_seen += 1;
                Blocker::ImportedState { kind: "table", module, name }
            }
            TypeRef::Global(_) => {
                self.globals_seen += 1;
                Blocker::ImportedState { kind: "global", module, name }
            }
            TypeRef::Tag(_) => Blocker::ImportedState { kind: "tag", module, name },
        };
        self.blockers.insert(blocker);
    }

    fn table(&mut self, ty: &TableType) {
        if ty.initial > TABLE_ELEMENTS_MAX {
            self.blockers.insert(Blocker::TableTooLarge { index: self.tables_seen, elements: ty.initial });
        }
        self.tables_seen += 1;
    }

    fn memory(&mut self, ty: MemoryType) {
        let index = u32::try_from(self.memories.len()).unwrap_or(u32::MAX);
        if ty.shared {
            self.blockers.insert(Blocker::Threads);
        }
        if ty.memory64 {
            self.blockers.insert(Blocker::Memory64 { index });
        }
        if ty.page_size_log2.is_some() {
            self.blockers.insert(Blocker::PageSize { index });
        }
        self.memories.push(ty);
    }

    fn global(&mut self, ty: &wasmparser::GlobalType) {
        let index = self.globals_seen;
        self.globals_seen += 1;
        if !ty.mutable {
            return;
        }
        let zero = match ty.content_type {
            ValType::I32 => GlobalValue::I32(0),
            ValType::I64 => GlobalValue::I64(0),
            ValType::F32 => GlobalValue::F32(0),
            ValType::F64 => GlobalValue::F64(0),
            ValType::V128 => GlobalValue::V128(0),
            ValType::Ref(_) => {
                self.blockers.insert(Blocker::ReferenceGlobal { index });
                return;
            }
        };
        self.globals.push((index, zero));
    }

    fn operator(&mut self, operator: &Operator<'_>) {
        let blocker = match operator {
            Operator::TableSet { .. } => Blocker::TableMutation { instruction: "table.set" },
            Operator::TableGrow { .. } => Blocker::TableMutation { instruction: "table.grow" },
            Operator::TableInit { .. } => Blocker::TableMutation { instruction: "table.init" },
            Operator::TableCopy { .. } => Blocker::TableMutation { instruction: "table.copy" },
            Operator::TableFill { .. } => Blocker::TableMutation { instruction: "table.fill" },
            Operator::DataDrop { .. } => Blocker::SegmentDrop { instruction: "data.drop" },
            Operator::ElemDrop { .. } => Blocker::SegmentDrop { instruction: "elem.drop" },
            Operator::AtomicFence | Operator::MemoryAtomicNotify { .. } => Blocker::Threads,
            Operator::MemoryAtomicWait32 { .. } | Operator::MemoryAtomicWait64 { .. } => Blocker::Threads,
            _ => return,
        };
        self.blockers.insert(blocker);
    }

    fn finish(mut self) -> (Shape, BTreeSet<Blocker>) {
        self.check_exports();
        if self.memories.len() > MEMORIES_MAX {
            self.blockers.insert(Blocker::TooManyMemories { count: self.memories.len() });
        }
        if self.globals.len() > GLOBALS_MAX {
            self.blockers.insert(Blocker::TooManyGlobals { count: self.globals.len() });
        }
        let pages = |ty: &MemoryType| (ty.initial, ty.maximum.unwrap_or(PAGES_MAX).min(PAGES_MAX));
        let shape = Shape { memories: self.memories.iter().map(pages).collect(), globals: self.globals };
        (shape, self.blockers)
    }

    fn check_exports(&mut self) {
        let find = |name: &str| self.exports.iter().find(|export| export.0 == name);
        let (name, expected) = MEMORY;
        match find(name) {
            None => drop(self.blockers.insert(Blocker::MissingExport { name, expected })),
            Some((_, ExternalKind::Memory, 0)) => {}
            Some(_) => drop(self.blockers.insert(Blocker::WrongExport { name, expected })),
        }
        let required = REQUIRED.into_iter().map(|export| (true, export));
        for (required, (name, ty, expected)) in required.chain(OPTIONAL.map(|export| (false, export))) {
            let function = |index: u32| self.functions.get(index as usize);
            let ty_of = |index| function(index).and_then(|&ty| self.types.get(ty as usize)?.as_deref());
            match find(name) {
                None if required => drop(self.blockers.insert(Blocker::MissingExport { name, expected })),
                None => {}
                Some((_, ExternalKind::Func, index)) if ty_of(*index) == Some(ty) => {}
                Some(_) => drop(self.blockers.insert(Blocker::WrongExport { name, expected })),
            }
        }
        for (name, ..) in self.exports.iter().filter(|export| export.0.starts_with(RESERVED_PREFIX)) {
            self.blockers.insert(Blocker::ReservedName { name: name.clone() });
        }
    }
}
