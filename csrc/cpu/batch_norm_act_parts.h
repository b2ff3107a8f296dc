// The elementwise parts of batch_norm_act, for batch_norm_act_loops.h: terms() gives what is summed at an element,
// values() what is written, by the order of NormTarget. Factors: mean, weight r and bias (r alone where weight and bias
// are an element's own), then those of the pass. kAtOnce: rows that are added before a sum goes back to memory, more
// than 1 where that takes as long as the terms.
//
// Terms and their sums S are double: where a sum cancels, float ones would be off by more than their elements are,
// unless these had 16 bits.

template <Act A>
constexpr bool kCurved = A != Act::linear && A != Act::relu && A != Act::lrelu;

// What is known of an element: x - mean, the factor on xh, and the activation's argument.
template <class C, bool kPixels>
struct NormPoint {
  C centred, weight, u;
  template <class F>
  GK_HD NormPoint(const NormInputs<C>& in, int64_t i, const F& f) {
    centred = in.at[kX][i] - f.get(0, i);
    if constexpr (kPixels) {
      weight = 1 + in.at[kScale][i];
      u = weight * (centred * f.get(1, i)) + in.at[kShift][i];
    } else {
      weight = 0;
      u = centred * f.get(1, i) + f.get(2, i);
    }
  }
};

template <Act A, class C, bool kPixels>
struct ForwardPart {
  static constexpr unsigned kWrites = 1;
  static constexpr unsigned kReads = kPixels ? 1 << kX | 1 << kScale | 1 << kShift : 1 << kX;
  template <class F>
  static GK_HD void values(const NormInputs<C>& in, int64_t i, const F& f, const ActNumbers<C>& p, C* out) {
    out[0] = p.gain * act_derivative<A, 0>(NormPoint<C, kPixels>(in, i, f).u, p.alpha);
  }
};

template <Act A, class C, bool kPixels>
struct BackwardPart {
  static constexpr int kTerms = kNormBackwardSums;
  static constexpr int kAtOnce = kCurved<A> ? 1 : 4;
  static constexpr unsigned kWrites = kPixels ? 1 | 1 << kScaleGrad | 1 << kShiftGrad : 1;
  static constexpr unsigned kReads = ForwardPart<A, C, kPixels>::kReads | 1 << kG;
  template <class F, class S>
  static GK_HD void terms(const NormInputs<C>& in, int64_t i, const F& f, const ActNumbers<C>& p, S* out) {
    const NormPoint<C, kPixels> at(in, i, f);
    const C d = in.at[kG][i] * (p.gain * act_derivative<A, 1>(at.u, p.alpha));
    norm_backward_terms<S>(kPixels ? S(at.weight) * d : S(d), at.centred, out);
  }
  template <class F>
  static GK_HD void values(const NormInputs<C>& in, int64_t i, const F& f, const ActNumbers<C>& p, C* out) {
    const NormPoint<C, kPixels> at(in, i, f);
    const C d = in.at[kG][i] * (p.gain * act_derivative<A, 1>(at.u, p.alpha));
    out[0] = (kPixels ? f.get(1, i) * at.weight : f.get(1, i)) * d + f.get(3, i) * at.centred + f.get(4, i);
    if constexpr (kPixels) {
      out[kScaleGrad] = d * (at.centred * f.get(1, i));
      out[kShiftGrad] = d;
    }
  }
};

template <Act A, class C, bool kPixels>
struct SecondPart {
  static constexpr bool kSmooth = kCurved<A>;
  static constexpr int kAtOnce = kCurved<A> ? 1 : 4;
  static constexpr int kTerms = kPixels ? (kSmooth ? kPixelSecondSums : kPixelSecondSumsLinear)
                                        : (kSmooth ? kNormSecondSums : kNormSecondSumsLinear);
  static constexpr unsigned kWrites = kPixels ? 15 : 3;
  static constexpr unsigned kReads = BackwardPart<A, C, kPixels>::kReads | 1 << kV | (kPixels ? 1 << kP | 1 << kQ : 0);
  template <class F, class S>
  static GK_HD void terms(const NormInputs<C>& in, int64_t i, const F& f, const ActNumbers<C>& p, S* out) {
    const NormPoint<C, kPixels> at(in, i, f);
    const C g = in.at[kG][i], v = in.at[kV][i];
    const C d = g * (p.gain * act_derivative<A, 1>(at.u, p.alpha));
    const C h = kSmooth ? g * (p.gain * act_derivative<A, 2>(at.u, p.alpha)) : C(0);
    if constexpr (kPixels)
      pixel_second_terms<kSmooth, S>(d, h, v, at.centred, at.weight, in.at[kP][i], in.at[kQ][i], f.get(1, i), out);
    else
      norm_second_terms<kSmooth, S>(d, h, v, at.centred, out);
  }
  template <class F>
  static GK_HD void values(const NormInputs<C>& in, int64_t i, const F& f, const ActNumbers<C>& p, C* out) {
    const NormPoint<C, kPixels> at(in, i, f);
    const C g = in.at[kG][i], v = in.at[kV][i];
    const C slope = p.gain * act_derivative<A, 1>(at.u, p.alpha), d = g * slope;
    const C curve = kSmooth ? g * (p.gain * act_derivative<A, 2>(at.u, p.alpha)) : C(0);
    C on_ht, on_d, t, pv = 0, xh = 0;
    if constexpr (kPixels) {  // factors 3 and 4: mean of v, r times its part along xh
      xh = f.get(1, i) * at.centred;
      pv = f.get(1, i) * (v - f.get(3, i) - f.get(4, i) * at.centred);
      t = at.weight * pv + in.at[kP][i] * xh + in.at[kQ][i];
      on_ht = f.get(1, i) * at.weight;
      on_d = f.get(1, i) * in.at[kP][i] - on_ht * f.get(4, i);
    } else {  // factors 3 and 4: of t on x, constant
      t = f.get(1, i) * v + f.get(3, i) * at.centred + f.get(4, i);
      on_ht = f.get(1, i);
      on_d = f.get(3, i);
    }
    out[0] = slope * t;
    out[1] = on_d * d + f.get(5, i) * v + f.get(6, i) * at.centred + f.get(7, i);
    if constexpr (kSmooth) out[1] += on_ht * curve * t;
    if constexpr (kPixels) {
      out[kScaleGrad] = d * pv;
      if constexpr (kSmooth) out[kScaleGrad] += curve * t * xh;
      out[kShiftGrad] = curve * t;
    }
  }
};
