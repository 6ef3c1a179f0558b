"""The vocabulary of the kernels: vectors of 16 numbers and verbs on them, each a few lines of LLVM IR.

A `Vec` is one vector or, with `rows`, a group of vectors that a verb treats alike: `fma(a, b, c)` with a group of six
is six instructions, and a plain vector or a number among the operands is used for all six. LLVM lowers the generic
verbs to AVX2, AVX-512 or NEON; only the int8 dot product (`dot.py`) chooses its instruction by the CPU. The verbs that
load and store are in `memory.py`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

F32 = ir.FloatType()
I8, I16, I32, I64 = (ir.IntType(n) for n in (8, 16, 32, 64))
ELEMENTS = {"f32": F32, "i32": I32, "i8": I8}


class Vec(types.Type):  # type: ignore[misc]
    """The type of `lanes` numbers of kind `element` in one register, or of `rows` such registers (0: not a group)."""

    def __init__(self, element: str, lanes: int, rows: int = 0) -> None:
        self.element, self.lanes, self.rows = element, lanes, rows
        super().__init__(name=f"{element}x{lanes}" + (f"[{rows}]" if rows else ""))

    @property
    def ir(self) -> ir.VectorType:
        return ir.VectorType(ELEMENTS[self.element], self.lanes)


@register_model(Vec)
class _VecModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, ir.ArrayType(fe_type.ir, fe_type.rows) if fe_type.rows else fe_type.ir)


f32x16, i32x16, i8x64 = Vec("f32", 16), Vec("i32", 16), Vec("i8", 64)


# Verbs are made from what they emit for plain vectors -------------------------------------------------------------


def splatted(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """Emit a vector of `lanes` copies of a number."""
    one = builder.insert_element(ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined), value, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(one, one, zeros)


def _operand(context: Any, builder: ir.IRBuilder, ty: Any, value: ir.Value, row: int, like: Vec) -> ir.Value:
    """Emit an operand as a plain vector: row `row` of a group, or a number cast and repeated in all lanes."""
    if isinstance(ty, Vec):
        return builder.extract_value(value, row) if ty.rows else value
    number = types.float32 if like.element == "f32" else types.int32
    return splatted(builder, context.cast(builder, value, ty, number), like.lanes)


def result_type(operands: Sequence[Any], result: Vec | None) -> Vec:
    """Return the type of a verb's result: a group if an operand is one, of `result`'s kind or else of the operands'."""
    rows = max((t.rows for t in operands if isinstance(t, Vec)), default=0)
    like = next(t for t in operands if isinstance(t, Vec))
    base = result or like
    return Vec(base.element, base.lanes, rows)


def rowwise(emit: Callable[..., ir.Value], out: Vec) -> Callable[..., ir.Value]:
    """Return the code generator that emits a verb for each row of its operands."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        like = next(t for t in sig.args if isinstance(t, Vec))
        results = [
            emit(builder, *(_operand(context, builder, t, v, row, like) for t, v in zip(sig.args, args, strict=True)))
            for row in range(out.rows or 1)
        ]
        return pack(builder, results, out)

    return codegen


def pack(builder: ir.IRBuilder, vectors: Sequence[ir.Value], out: Vec) -> ir.Value:
    """Emit the vectors as one value of type `out`."""
    if not out.rows:
        return vectors[0]
    group = ir.Constant(ir.ArrayType(out.ir, out.rows), ir.Undefined)
    for row, vector in enumerate(vectors):
        group = builder.insert_value(group, vector, row)
    return group


def unary(emit: Callable[..., ir.Value], result: Vec | None = None) -> Any:
    """Make a verb of one operand from what it emits for a plain vector; result: its kind, if not the operand's."""

    @intrinsic
    def verb(typingctx: Any, a: Any) -> Any:
        out = result_type((a,), result)
        return out(a), rowwise(emit, out)

    return verb


def binary(emit: Callable[..., ir.Value], result: Vec | None = None) -> Any:
    """Make a verb of two operands, likewise."""

    @intrinsic
    def verb(typingctx: Any, a: Any, b: Any) -> Any:
        out = result_type((a, b), result)
        return out(a, b), rowwise(emit, out)

    return verb


def ternary(emit: Callable[..., ir.Value], result: Vec | None = None) -> Any:
    """Make a verb of three operands, likewise."""

    @intrinsic
    def verb(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
        out = result_type((a, b, c), result)
        return out(a, b, c), rowwise(emit, out)

    return verb


def call(builder: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    """Emit a call of an LLVM intrinsic or a C function by its name."""
    function = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)


def constant(vector: ir.Type, value: float) -> ir.Constant:
    """Return the vector constant with a number in all lanes."""
    return ir.Constant(vector, [value] * vector.count)


def _operator(symbol: Any, on_floats: str, on_ints: str) -> None:
    """Define a Python operator on Vec, by the names of its LLVM instructions."""

    @infer_global(symbol)
    class _Template(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            if any(isinstance(a, Vec) for a in args):
                return signature(result_type(args, None), *args)
            return None

    def lowered(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        instruction = on_floats if sig.return_type.element == "f32" else on_ints
        return rowwise(lambda b, x, y: getattr(b, instruction)(x, y), sig.return_type)(context, builder, sig, args)

    for left, right in ((Vec, Vec), (Vec, types.Number), (types.Number, Vec)):
        lower_builtin(symbol, left, right)(lowered)


_operator(operator.add, "fadd", "add")
_operator(operator.sub, "fsub", "sub")
_operator(operator.mul, "fmul", "mul")


# Arithmetic -------------------------------------------------------------------------------------------------------

fma = ternary(lambda b, x, y, z: call(b, "llvm.fma.v16f32", x.type, x, y, z))  # x * y + z, rounded once


def _emit_maximum(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Emit y unless x is larger: this is what maxps does, so it is one instruction on x86."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def _emit_minimum(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.select(b.fcmp_ordered("<", x, y), x, y)


maximum = binary(_emit_maximum)  # a NaN in x gives y
minimum = binary(_emit_minimum)
absolute = unary(lambda b, x: call(b, "llvm.fabs.v16f32", x.type, x))
round_half_away = unary(lambda b, x: call(b, "llvm.round.v16f32", x.type, x))
divide = binary(lambda b, x, y: b.fdiv(x, y))
to_f32 = unary(lambda b, x: b.sitofp(x, f32x16.ir), f32x16)
to_i32 = unary(lambda b, x: b.fptosi(x, i32x16.ir), i32x16)  # towards zero; the value must fit


def _emit_exp(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Emit e^x to 2 ulp: 2^k times a polynomial on [-ln2/2, ln2/2] (Cephes' expf); 0 below -87.3, e^88 above 88.

    Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits, which are then shifted into the exponent.
    """
    v, i = f32x16.ir, i32x16.ir

    def fused(x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        return call(b, "llvm.fma.v16f32", v, x, y, z)

    magic = constant(v, 12582912.0)
    clipped = _emit_minimum(b, constant(v, 88.0), x)  # NaN stays NaN
    whole = fused(clipped, constant(v, 1.4426950408889634), magic)
    k = b.fsub(whole, magic)
    r = fused(k, constant(v, -0.693359375), clipped)
    r = fused(k, constant(v, 2.12194440e-4), r)
    p = constant(v, 1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = fused(p, r, constant(v, c))
    p = b.fadd(fused(p, b.fmul(r, r), r), constant(v, 1.0))
    power = b.bitcast(b.add(b.shl(b.bitcast(whole, i), constant(i, 23)), constant(i, 127 << 23)), v)
    return b.select(b.fcmp_ordered("<", x, constant(v, -87.3)), constant(v, 0.0), b.fmul(p, power))


exp = unary(_emit_exp)


@intrinsic
def first_lanes(typingctx: Any, n: Any, a: Any, b: Any) -> Any:
    """Take the first n lanes from a and the others from b; n must fit into 32 bits."""
    out = result_type((a, b), None)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        count = builder.trunc(context.cast(builder, args[0], sig.args[0], types.int64), I32)
        lanes = ir.Constant(ir.VectorType(I32, out.lanes), list(range(out.lanes)))
        mask = builder.icmp_signed("<", lanes, splatted(builder, count, out.lanes))
        inner = signature(out, *sig.args[1:])
        return rowwise(lambda b, x, y: b.select(mask, x, y), out)(context, builder, inner, args[1:])

    return out(n, a, b), codegen


@intrinsic
def any_above(typingctx: Any, a: Any, b: Any) -> Any:
    """Tell whether any lane of a is above the same lane of b."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        lanes = builder.bitcast(builder.fcmp_ordered(">", *args), I16)
        return builder.icmp_unsigned("!=", lanes, I16(0))

    return types.boolean(a, b), codegen


@intrinsic
def all_finite(typingctx: Any, a: Any, b: Any) -> Any:
    """Tell whether no lane of two vectors is NaN or infinite."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        lanes = [builder.bitcast(_emit_below(builder, x, constant(x.type, math.inf)), I16) for x in args]
        return builder.icmp_unsigned("==", builder.and_(*lanes), I16(0xFFFF))

    return types.boolean(a, b), codegen


def _emit_below(b: ir.IRBuilder, x: ir.Value, limit: ir.Value) -> ir.Value:
    """Emit whether the magnitude of each number is below a limit; NaN is not."""
    return b.fcmp_ordered("<", call(b, "llvm.fabs.v16f32", x.type, x), limit)


below = binary(lambda b, x, limit: b.select(_emit_below(b, x, limit), x, constant(x.type, math.nan)))  # others: NaN


def _reduction(name: str, flag: str, *start: float) -> Any:
    """Make a verb that reduces a vector's lanes to one number, as a tree; `flag` is the fast-math flag for that."""

    @intrinsic
    def verb(typingctx: Any, a: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            operands = [ir.Constant(F32, s) for s in start] + [args[0]]
            function = ir.FunctionType(F32, [o.type for o in operands])
            callee = cgutils.get_or_insert_function(builder.module, function, name)
            return builder.call(callee, operands, fastmath=(flag,))

        return types.float32(a), codegen

    return verb


sum_lanes = _reduction("llvm.vector.reduce.fadd.v16f32", "reassoc", -0.0)
min_lanes = _reduction("llvm.vector.reduce.fmin.v16f32", "nnan")
max_lanes = _reduction("llvm.vector.reduce.fmax.v16f32", "nnan")


@unary
def spread_sum(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    """Put the sum of all lanes into all lanes."""
    function = ir.FunctionType(F32, [F32, v.type])
    reduce = cgutils.get_or_insert_function(b.module, function, "llvm.vector.reduce.fadd.v16f32")
    return splatted(b, b.call(reduce, [ir.Constant(F32, -0.0), v], fastmath=("reassoc",)), 16)


as_i32 = unary(lambda b, x: b.bitcast(x, i32x16.ir), i32x16)  # the bits of floats
larger_i32 = binary(lambda b, x, y: b.select(b.icmp_signed(">", x, y), x, y))


def _emit_word(b: ir.IRBuilder, *bytes_: ir.Value) -> ir.Value:
    """Emit the low bytes of four integers as one."""
    low = [b.and_(v, constant(v.type, 255)) for v in bytes_[:3]]
    moved = [low[0], *(b.shl(v, constant(v.type, 8 * i)) for i, v in enumerate((*low[1:], bytes_[3]), 1))]
    return b.or_(b.or_(moved[0], moved[1]), b.or_(moved[2], moved[3]))


@intrinsic
def word_of(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Return i32x16 whose four bytes are the low bytes of four i32x16, the first one's lowest."""
    return i32x16(a, b, c, d), lambda context, builder, sig, args: _emit_word(builder, *args)


@intrinsic
def top_of_bits(typingctx: Any, a: Any) -> Any:
    """Return the largest of 16 floats >= 0, given as their bits; NaN is larger than all."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.bitcast(call(builder, "llvm.vector.reduce.smax.v16i32", I32, args[0]), F32)

    return types.float32(a), codegen


@intrinsic
def sum_lanes_i32(typingctx: Any, a: Any) -> Any:
    """Return the sum of 16 integers as int64."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.sext(call(builder, "llvm.vector.reduce.add.v16i32", I32, args[0]), I64)

    return types.int64(a), codegen


low_nibbles_i32 = unary(lambda b, v: b.and_(v, constant(v.type, 15)))
high_nibbles_i32 = unary(lambda b, v: b.lshr(v, constant(v.type, 4)))
low_bytes_i32 = unary(lambda b, v: b.and_(v, constant(v.type, 255)))
high_bytes_i32 = unary(lambda b, v: b.lshr(v, constant(v.type, 8)))


@intrinsic(prefer_literal=True)
def zeros_f32(typingctx: Any, rows: Any) -> Any:
    """Return a group of `rows` vectors f32x16 of zeros."""
    out = Vec("f32", 16, rows.literal_value)
    return out(rows), lambda context, builder, sig, args: ir.Constant(ir.ArrayType(out.ir, out.rows), None)


@intrinsic(prefer_literal=True)
def zeros_i32(typingctx: Any, rows: Any) -> Any:
    """Return a group of `rows` vectors i32x16 of zeros."""
    out = Vec("i32", 16, rows.literal_value)
    return out(rows), lambda context, builder, sig, args: ir.Constant(ir.ArrayType(out.ir, out.rows), None)


@intrinsic
def splat(typingctx: Any, value: Any) -> Any:
    """Return an f32x16 with a number in all lanes."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return splatted(builder, context.cast(builder, args[0], sig.args[0], types.float32), 16)

    return f32x16(value), codegen


@intrinsic(prefer_literal=True)
def row(typingctx: Any, group: Any, index: Any) -> Any:
    """Return vector `index` (a constant) of a group."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.extract_value(args[0], index.literal_value)

    return Vec(group.element, group.lanes)(group, index), codegen
