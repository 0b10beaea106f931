// The gradient of one direction's scan: a warp takes 32 channels of one sequence, a lane one channel with its 16
// states in registers. Chunks of STEPS steps: forward from the stored state, leaving every state in shared memory;
// then backward. Sums over states stay in a lane; sums over channels are products with a matrix of ones on the
// tensor cores (m16n8k8 in TF32: each of 8 products sums two states over four lanes), which leaves 3 shuffles for 32
// sums. TF32 cuts what it adds to 10 bits after the leading one: beside the 8 of bf16's own dx it is not seen.
//
// No GPU has run this yet. Its arithmetic is checked on a CPU, where a lane is an element of an array (warp.h with
// EMULATE); the order of asynchronous copies and the barriers are not, for there everything happens in order.
#include "warp.h"

#ifndef STEPS
#define STEPS 8
#endif
#ifndef WARPS
#define WARPS 2
#endif
#ifndef EXACT
#define EXACT 0   // 1: two products a sum, for float32 training
#endif
constexpr int N = 16;
constexpr float LOG2E = 1.4426950408889634f;

struct alignas(16) Warp {             // one warp's shared memory
  float h[STEPS][4][128];                     // state before step s: [quad][lane][4]; the last one also takes in the next chunk's first
  float delta[STEPS][32], slope[STEPS][32];   // slope: softplus's derivative; delta[s] becomes sums over channels: dB, dC
  u16 x[2][STEPS][32], draw[STEPS][32], dy[STEPS][32];
};
struct alignas(16) Block { Warp warp[WARPS]; float BC[2][STEPS][2 * N]; };

struct Args {
  const u16 *dy, *x, *draw; const float *BC, *A, *D, *bias, *states;
  u16 *dx, *ddraw; float *dBC, *dparams; int L, E, batch;
};

DEV void softplus(F v, F& delta, F& slope) {
  F u = ex2(abs_(v) * -LOG2E);
  F p = fma_(u, splat(0.005232693627476692f), splat(-0.02950523979961872f));
  p = fma_(p, u, splat(0.07822596281766891f)); p = fma_(p, u, splat(-0.13663247227668762f));
  p = fma_(p, u, splat(0.19106008112430573f)); p = fma_(p, u, splat(-0.2484298199415207f));
  p = fma_(p, u, splat(0.3331909775733948f)); p = fma_(p, u, splat(-0.4999949336051941f));
  p = fma_(p, u, splat(0.9999999403953552f));
  delta = fma_(u, p, max0(v));
  slope = sel(ge0(v), splat(1.f), u) * rcp(u + splat(1.f));
}

struct Chunk { int low, high; };       // steps of the walk
DEV Chunk chunk_at(int c, int chunks, int half, int skip, int skip_last) {
  int base = c >= chunks ? half : 0, k = c >= chunks ? c - chunks : c;
#ifdef EMULATE
  using std::min;
#endif
  Chunk r; r.low = base + k * STEPS; r.high = min(base + half, r.low + STEPS);
  if (c == 0) r.low += skip;                                 // odd L: the mirrored walk begins outside,
  if (c == 2 * chunks - 1) r.high -= skip_last;              // the other one ends there
  return r;
}

DEV void start_copies_xd(const Args& a, Warp& w, int into, Chunk c, int first, int sign, i64 seq, int e0, int n) {
  // rows in the order of the walk
  i64 row = (seq * a.L + first + sign * c.low) * a.E + e0;
  copy_rows(&w.x[into][0][0], a.x + row, (i64)sign * a.E, c.high - c.low, n);
  copy_rows(&w.draw[0][0], a.draw + row, (i64)sign * a.E, c.high - c.low, n);
}
DEV void start_copy_dy(const Args& a, Warp& w, Chunk c, int first, int sign, i64 sample, int e0, int n) {
  copy_rows(&w.dy[0][0], a.dy + (sample * a.L + first + sign * c.low) * a.E + e0, (i64)sign * a.E, c.high - c.low, n);
}
#ifdef EMULATE
#define KEEP(v)
#else
#define KEEP(v) asm volatile("" : "+f"(v))
#endif
#ifdef EMULATE
using std::min; using std::max;
struct Dim { int x; };
static void scan_backward(Args a, Dim blockIdx, Block& B) {
  const int wi = 0;
#else
extern "C" __global__ void __launch_bounds__(32 * WARPS, MINBLOCKS) scan_backward(Args a) {
  extern __shared__ __align__(16) unsigned char raw[];
  Block& B = *reinterpret_cast<Block*>(raw);
  const int wi = threadIdx.x >> 5;
#endif
  Warp& w = B.warp[wi];
  const int blocks = (a.E + 32 * WARPS - 1) / (32 * WARPS);
  const int block = blockIdx.x % blocks;
  const i64 seq = blockIdx.x / blocks;
  const int direction = (int)seq / a.batch;
  const i64 sample = (int)seq % a.batch;
  const int e0 = block * 32 * WARPS + wi * 32, n = min(max(a.E - e0, 0), 32);
  const int half = (a.L + 1) / 2, chunks = (half + STEPS - 1) / STEPS;
  const int first = direction * (2 * half - 1), sign = 1 - 2 * direction, skip = direction & a.L & 1, skip_last = (1 - direction) & a.L & 1;
  const float* states = a.states + (seq * 2 * chunks) * 4 * (i64)a.E * 4 + (i64)e0 * 4;   // [chunk][quad][E][4]
  const i64 quad = (i64)a.E * 4, per_chunk = 4 * quad;

  F A[N], h[N], ddh[N], dA[N];
#pragma unroll
  for (int k = 0; k < N; ++k) { A[k] = ldg_rows(a.A + ((i64)direction * a.E + e0) * N + k, n) * LOG2E; ddh[k] = 0.f; dA[k] = 0.f; }
  const F D = ldg(a.D + (i64)direction * a.E + e0, n), bias = ldg(a.bias + (i64)direction * a.E + e0, n);
  F dD = 0.f, dbias = 0.f;
  F one[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) { one[k] = lane_eq_hi(k); KEEP(one[k]); }
  F zero[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) { zero[k] = 0.f; KEEP(zero[k]); }
  const Pr bit0 = lane_bit(0), bit1 = lane_bit(1);

  int c = 2 * chunks - 1, turn = 0;
  Chunk now = chunk_at(c, chunks, half, skip, skip_last);
  auto copy_BC = [&](int into, Chunk k) {   // the whole block: STEPS rows of 128 bytes
    THREADS(j, STEPS * 8) {
      int r = j >> 3, q = (j & 7) * 4; bool on = r < k.high - k.low;
      cp16(&B.BC[into][r][q], a.BC + (seq * a.L + first + sign * (k.low + (on ? r : 0))) * 2 * N + q, on);
    }
  };
  start_copies_xd(a, w, 0, now, first, sign, seq, e0, n);
  copy_state(&w.h[STEPS - 1][0][0], states + c * per_chunk, quad, n);
  copy_BC(0, now);
  commit();
  start_copy_dy(a, w, now, first, sign, sample, e0, n);
  commit();

  for (; c >= 0; --c) {
    const int count = now.high - now.low;
    WAIT_COPIES(1);
    SYNCBLOCK();
    // Forward through the chunk; rows past its end hold zeros.
#pragma unroll 4
    for (int s = 0; s < STEPS; ++s) {
      F delta, slope;
      softplus(lds_bf(&w.draw[s][0]) + bias, delta, slope);
      sts(&w.delta[s][0], delta); sts(&w.slope[s][0], slope);
    }
#pragma unroll
    for (int q = 0; q < 4; ++q) { lds4(&w.h[STEPS - 1][q][0], h + 4 * q); sts4(&w.h[0][q][0], h + 4 * q); }
#pragma unroll 2
    for (int s = 0; s < count; ++s) {
      const F delta = lds(&w.delta[s][0]);
      const F ux = delta * lds_bf(&w.x[turn][s][0]);
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        float Bq[4]; lduni4(&B.BC[turn][s][4 * q], Bq);
#pragma unroll
        for (int j = 0; j < 4; ++j) h[4 * q + j] = fma_(ex2(delta * A[4 * q + j]), h[4 * q + j], ux * Bq[j]);
        if (s + 1 < count) sts4(&w.h[s + 1][q][0], h + 4 * q);
      }
    }
    SYNCWARP();
    Chunk next = now;
    if (c > 0) {   // the next chunk's inputs arrive during the walk back
      next = chunk_at(c - 1, chunks, half, skip, skip_last);
      start_copies_xd(a, w, turn ^ 1, next, first, sign, seq, e0, n);
      copy_BC(turn ^ 1, next);
    }
    commit();
    WAIT_COPIES(1);   // dy of this chunk
    SYNCWARP();
    u16* dx = a.dx + (seq * a.L + first + sign * now.low) * a.E + e0;
    u16* ddraw = a.ddraw + (seq * a.L + first + sign * now.low) * a.E + e0;
    for (int s = count - 1; s >= 0; --s) {
      const F x = lds_bf(&w.x[turn][s][0]), dy = lds_bf(&w.dy[s][0]), delta = lds(&w.delta[s][0]), slope = lds(&w.slope[s][0]);
      const F ux = delta * x;
      F du = 0.f, dd = 0.f, SB[4] = {0.f, 0.f, 0.f, 0.f}, SC[4] = {0.f, 0.f, 0.f, 0.f}, TB[4] = {0.f, 0.f, 0.f, 0.f}, TC[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        float Bq[4], Cq[4]; F hp[4], PB[4], PC[4];
        lduni4(&B.BC[turn][s][4 * q], Bq); lduni4(&B.BC[turn][s][N + 4 * q], Cq);
        lds4(&w.h[s][q][0], hp);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int k = 4 * q + j;
          const F dh = fma_(dy, Cq[j], ddh[k]);
          PC[j] = h[k] * dy;
          PB[j] = dh * ux;
          du = fma_(dh, Bq[j], du);
          ddh[k] = dh * ex2(delta * A[k]);
          const F g = ddh[k] * hp[j];
          dd = fma_(g, A[k], dd);
          dA[k] = fma_(g, delta, dA[k]);
          h[k] = hp[j];
        }
        // States 4q .. 4q+3 to rows 4q .. 4q+3 of the sums of states 0-7 or 8-15.
#pragma unroll
        for (int p = 0; p < 2; ++p) {
          const int r = (4 * q + 2 * p) & 7;
          mma(q < 2 ? SB : TB, one[r], zero[r], one[r + 1], zero[r + 1], PB[2 * p], PB[2 * p + 1]);
          mma(q < 2 ? SC : TC, one[r], zero[r], one[r + 1], zero[r + 1], PC[2 * p], PC[2 * p + 1]);
#if EXACT
          mma(q < 2 ? SB : TB, one[r], zero[r], one[r + 1], zero[r + 1], tf32_rest(PB[2 * p]), tf32_rest(PB[2 * p + 1]));
          mma(q < 2 ? SC : TC, one[r], zero[r], one[r + 1], zero[r + 1], tf32_rest(PC[2 * p]), tf32_rest(PC[2 * p + 1]));
#endif
        }
      }
      const F b0 = SB[0] + SB[1], b1 = TB[0] + TB[1], c0 = SC[0] + SC[1], c1 = TC[0] + TC[1];
      const F k0 = sel(bit1, c0, b0) + shfl_xor(sel(bit1, b0, c0), 2), k1 = sel(bit1, c1, b1) + shfl_xor(sel(bit1, b1, c1), 2);
      sts_part(&w.delta[s][0], sel(bit0, k1, k0) + shfl_xor(sel(bit0, k0, k1), 1));
      const F dv = fma_(du, x, dd * (1.f / LOG2E)) * slope;
      dD = fma_(dy, x, dD);
      dbias = dbias + dv;
      stg_bf(dx + (i64)s * sign * a.E, fma_(du, delta, D * dy), n);
      stg_bf(ddraw + (i64)s * sign * a.E, dv, n);
    }
    SYNCWARP();
    if (c > 0) copy_state(&w.h[STEPS - 1][0][0], states + (c - 1) * per_chunk, quad, n);
    commit();
    if (c > 0) start_copy_dy(a, w, next, first, sign, sample, e0, n);
    commit();
    SYNCBLOCK();
    THREADS(j, count * 32) {
      float sum = 0.f;
#pragma unroll
      for (int k = 0; k < WARPS; ++k) sum += (&B.warp[k].delta[0][0])[j];
      a.dBC[((block * 2 * (i64)a.batch + seq) * a.L + first + sign * (now.low + (j >> 5))) * 2 * N + (j & 31)] = sum;
    }
    now = next; turn ^= 1;
  }
  float* out = a.dparams + (sample * 2 + direction) * (N + 2) * (i64)a.E + e0;
#pragma unroll
  for (int k = 0; k < N; ++k) stg(out + (i64)k * a.E, dA[k], n);
  stg(out + (i64)N * a.E, dD, n);
  stg(out + (i64)(N + 1) * a.E, dbias, n);
}

#ifdef EMULATE
extern "C" void run(Args* a) {
  const int blocks = (a->E + 32 * WARPS - 1) / (32 * WARPS);
  for (int i = 0; i < blocks * 2 * a->batch; ++i) { static Block B; memset((void*)&B, 0xff, sizeof B); scan_backward(*a, Dim{i}, B); }
}
#endif
