"""Verbs that touch memory: vectors and single numbers at int64 addresses, in f32, f16, bf16 and integers.

Nothing here checks an address: the arguments of a kernel have been validated before. A vector of 16 float32 or int32 is
64 bytes, which is what a bare 64 in a kernel means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import cpu
from .simd import ELEMENTS, F32, I8, I16, I32, I64, Vec, call, constant, f32x16, i8x64, i32x16, pack, splatted


def _at(builder: ir.IRBuilder, address: ir.Value, ty: ir.Type) -> ir.Value:
    return builder.inttoptr(address, ty.as_pointer())


@intrinsic
def pointer(typingctx: Any, address: Any) -> Any:
    """Return an address as a pointer, for numba.carray."""
    return types.voidptr(address), lambda context, builder, sig, args: builder.inttoptr(args[0], I8.as_pointer())


def read(builder: ir.IRBuilder, address: ir.Value, ty: ir.Type) -> ir.Value:
    """Emit a load from an address, aligned or not."""
    return builder.load(_at(builder, address, ty), align=1)


def _half_to_f32(b: ir.IRBuilder, h: ir.Value) -> ir.Value:
    """Emit halves (integers of 16 bits) as f32. Without an instruction: move exponent and fraction into place, and
    scale by 2^112, which is right for denormals too; above 65504 it is infinity or NaN."""
    lanes = h.type.count
    if cpu.HALF:
        return b.fpext(b.bitcast(h, ir.VectorType(ir.HalfType(), lanes)), ir.VectorType(F32, lanes))
    ints, floats = ir.VectorType(I32, lanes), ir.VectorType(F32, lanes)
    bits = b.zext(h, ints)
    sign = b.shl(b.and_(bits, constant(ints, 0x8000)), constant(ints, 16))
    magnitude = b.shl(b.and_(bits, constant(ints, 0x7FFF)), constant(ints, 13))
    scaled = b.bitcast(b.fmul(b.bitcast(magnitude, floats), constant(floats, 2.0**112)), ints)
    special = b.or_(magnitude, constant(ints, 0x7F800000))
    is_special = b.icmp_unsigned(">=", b.and_(bits, constant(ints, 0x7FFF)), constant(ints, 0x7C00))
    return b.bitcast(b.or_(b.select(is_special, special, scaled), sign), floats)


def _f32_to_half(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Emit f32 as halves (integers of 16 bits), to nearest even; in software by Giesen's float_to_half_fast3."""
    lanes = x.type.count
    if cpu.HALF:
        return b.bitcast(b.fptrunc(x, ir.VectorType(ir.HalfType(), lanes)), ir.VectorType(I16, lanes))
    ints, floats = ir.VectorType(I32, lanes), ir.VectorType(F32, lanes)
    bits = b.bitcast(x, ints)
    sign = b.and_(bits, constant(ints, 0x80000000))
    rest = b.xor(bits, sign)
    odd = b.and_(b.lshr(rest, constant(ints, 13)), constant(ints, 1))
    normal = b.lshr(b.add(b.add(rest, constant(ints, ((15 - 127) << 23) + 0xFFF)), odd), constant(ints, 13))
    magic = constant(ints, ((127 - 15) + (23 - 10) + 1) << 23)
    small = b.sub(b.bitcast(b.fadd(b.bitcast(rest, floats), b.bitcast(magic, floats)), ints), magic)
    huge = b.select(
        b.icmp_unsigned(">", rest, constant(ints, 0x7F800000)), constant(ints, 0x7E00), constant(ints, 0x7C00)
    )
    half = b.select(b.icmp_unsigned("<", rest, constant(ints, 113 << 23)), small, normal)
    half = b.select(b.icmp_unsigned(">=", rest, constant(ints, (127 + 16) << 23)), huge, half)
    return b.trunc(b.or_(half, b.lshr(sign, constant(ints, 16))), ir.VectorType(I16, lanes))


def _bf16_to_f32(b: ir.IRBuilder, h: ir.Value) -> ir.Value:
    """Emit bf16 (integers of 16 bits) as f32."""
    ints = ir.VectorType(I32, h.type.count)
    return b.bitcast(b.shl(b.zext(h, ints), constant(ints, 16)), ir.VectorType(F32, h.type.count))


def _f32_to_bf16(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Emit f32 as bf16 (integers of 16 bits), to nearest even; NaN stays NaN."""
    ints = ir.VectorType(I32, x.type.count)
    bits = b.bitcast(x, ints)
    high = b.lshr(bits, constant(ints, 16))
    even = b.add(b.add(bits, constant(ints, 0x7FFF)), b.and_(high, constant(ints, 1)))
    near = b.lshr(even, constant(ints, 16))
    quiet = b.or_(high, constant(ints, 64))
    return b.trunc(b.select(b.fcmp_unordered("uno", x, x), quiet, near), ir.VectorType(I16, x.type.count))


def _power_to_f32(b: ir.IRBuilder, e: ir.Value) -> ir.Value:
    """Emit bytes e as 2^(e - 128); the first two are denormal."""
    ints = ir.VectorType(I32, e.type.count)
    e = b.zext(e, ints)
    denormal = b.shl(constant(ints, 0x00200000), e)
    normal = b.shl(b.sub(e, constant(ints, 1)), constant(ints, 23))
    small = b.icmp_unsigned("<", e, constant(ints, 2))
    return b.bitcast(b.select(small, denormal, normal), ir.VectorType(F32, e.type.count))


def _loader(lanes: int, stored: ir.Type, convert: Callable[[ir.IRBuilder, ir.Value], ir.Value], out: Vec) -> Any:
    """Make a verb that loads `lanes` numbers, stored as `stored` at an address, as a vector."""

    @intrinsic
    def verb(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return convert(builder, read(builder, args[0], ir.VectorType(stored, lanes)))

        return out(types.int64), codegen

    return verb


load_f32 = _loader(16, F32, lambda b, v: v, f32x16)
load_f16 = _loader(16, I16, _half_to_f32, f32x16)
load_bf16 = _loader(16, I16, _bf16_to_f32, f32x16)
load_i8 = _loader(64, I8, lambda b, v: v, i8x64)
load_i8_f32 = _loader(16, I8, lambda b, v: b.sitofp(v, f32x16.ir), f32x16)
load_u8_i32 = _loader(16, I8, lambda b, v: b.zext(v, i32x16.ir), i32x16)
load_u16_i32 = _loader(16, I16, lambda b, v: b.zext(v, i32x16.ir), i32x16)
load_e8m0 = _loader(16, I8, _power_to_f32, f32x16)


def _storer(convert: Callable[[ir.IRBuilder, ir.Value], ir.Value]) -> Any:
    """Make a verb that converts a vector of 16 numbers and stores it."""

    @intrinsic
    def verb(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            stored = convert(builder, args[1])
            builder.store(stored, _at(builder, args[0], stored.type), align=1)
            return context.get_dummy_value()

        return types.none(types.int64, value), codegen

    return verb


store_f32 = _storer(lambda b, v: v)
store_f16 = _storer(_f32_to_half)
store_bf16 = _storer(_f32_to_bf16)
store_i32 = _storer(lambda b, v: v)
store_i8 = _storer(lambda b, v: v)  # of i8x64
store_low_bytes = _storer(lambda b, v: b.trunc(v, ir.VectorType(I8, 16)))  # of i32x16


@intrinsic(prefer_literal=True)
def splat_words(typingctx: Any, address: Any, stride: Any, rows: Any) -> Any:
    """Return `rows` vectors i32x16: the four bytes at address + row * stride, repeated in all lanes."""
    return _broadcast("i32", address, stride, rows)


@intrinsic(prefer_literal=True)
def splat_floats(typingctx: Any, address: Any, stride: Any, rows: Any) -> Any:
    """Return `rows` vectors f32x16: the float at address + row * stride, repeated in all lanes."""
    return _broadcast("f32", address, stride, rows)


def _broadcast(element: str, address: Any, stride: Any, rows: Any) -> Any:
    """Return the type and the code generator of a verb that repeats one number in all lanes, row by row."""
    out = Vec(element, 16, rows.literal_value)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        step = context.cast(builder, args[1], sig.args[1], types.int64)
        where, vectors = args[0], []
        for _ in range(out.rows):
            vectors.append(splatted(builder, read(builder, where, ELEMENTS[element]), 16))
            where = builder.add(where, step)
        return pack(builder, vectors, out)

    return out(types.int64, stride, rows), codegen


@intrinsic(prefer_literal=True)
def load_rows(typingctx: Any, address: Any, stride: Any, rows: Any) -> Any:
    """Load a group of f32x16: row r from address + r * stride."""
    out = Vec("f32", 16, rows.literal_value)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        step = context.cast(builder, args[1], sig.args[1], types.int64)
        where, vectors = args[0], []
        for _ in range(out.rows):
            vectors.append(read(builder, where, out.ir))
            where = builder.add(where, step)
        return pack(builder, vectors, out)

    return out(types.int64, stride, rows), codegen


@intrinsic
def store_rows(typingctx: Any, address: Any, stride: Any, group: Any) -> Any:
    """Store a group of f32x16: row r to address + r * stride."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        step = context.cast(builder, args[1], sig.args[1], types.int64)
        where = args[0]
        for r in range(group.rows):
            builder.store(builder.extract_value(args[2], r), _at(builder, where, group.ir), align=1)
            where = builder.add(where, step)
        return context.get_dummy_value()

    return types.none(types.int64, stride, group), codegen


def _peek(stored: ir.Type, result: Any, convert: Callable[[ir.IRBuilder, ir.Value], ir.Value]) -> Any:
    """Make a verb that loads one number."""

    @intrinsic
    def verb(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return convert(builder, read(builder, args[0], stored))

        return result(types.int64), codegen

    return verb


def _poke(stored: ir.Type, number: Any, convert: Callable[[ir.IRBuilder, ir.Value], ir.Value]) -> Any:
    """Make a verb that stores one number."""

    @intrinsic
    def verb(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            builder.store(convert(builder, args[1]), _at(builder, args[0], stored), align=1)
            return context.get_dummy_value()

        return types.none(types.int64, number), codegen

    return verb


def _alone(convert: Callable[[ir.IRBuilder, ir.Value], ir.Value], ty: ir.Type) -> Any:
    """Return a conversion of vectors as one for a single number."""

    def one(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
        vector = b.insert_element(ir.Constant(ir.VectorType(ty, 1), ir.Undefined), value, I32(0))
        return b.extract_element(convert(b, vector), I32(0))

    return one


@intrinsic
def store_first(typingctx: Any, address: Any, value: Any, n: Any) -> Any:
    """Store the first n lanes of an f32x16, all of them where n is 16 or more."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        lanes = ir.Constant(ir.VectorType(I32, 16), list(range(16)))
        count = builder.trunc(context.cast(builder, args[2], sig.args[2], types.int64), I32)
        mask = builder.icmp_signed("<", lanes, splatted(builder, count, 16))
        where = _at(builder, args[0], f32x16.ir)
        call(builder, "llvm.masked.store.v16f32.p0", ir.VoidType(), args[1], where, I32(4), mask)
        return context.get_dummy_value()

    return types.none(types.int64, value, n), codegen


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Fetch the cache line at an address, any address, into the core's second-level cache.

    The first level is full with what is being read: lines that come early push that out, or are pushed out themselves.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        call(builder, "llvm.prefetch.p0", ir.VoidType(), _at(builder, args[0], I8), I32(0), I32(2), I32(1))
        return context.get_dummy_value()

    return types.none(types.int64), codegen


peek_f32 = _peek(F32, types.float32, lambda b, v: v)
peek_f16 = _peek(I16, types.float32, _alone(_half_to_f32, I16))
peek_e8m0 = _peek(I8, types.float32, _alone(_power_to_f32, I8))
peek_i32 = _peek(I32, types.int32, lambda b, v: v)
peek_i64 = _peek(I64, types.int64, lambda b, v: v)
peek_u8 = _peek(I8, types.int64, lambda b, v: b.zext(v, I64))
peek_u16 = _peek(I16, types.int64, lambda b, v: b.zext(v, I64))
poke_f32 = _poke(F32, types.float32, lambda b, v: v)
poke_f16 = _poke(I16, types.float32, _alone(_f32_to_half, F32))
poke_i32 = _poke(I32, types.int64, lambda b, v: b.trunc(v, I32))
poke_i64 = _poke(I64, types.int64, lambda b, v: v)
poke_u8 = _poke(I8, types.int64, lambda b, v: b.trunc(v, I8))
poke_u16 = _poke(I16, types.int64, lambda b, v: b.trunc(v, I16))
