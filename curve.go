package sallyport

import (
	"errors"
	"math/big"
	"slices"
)

var (
	one        = big.NewInt(1)
	fieldPrime = new(big.Int).Sub(new(big.Int).Lsh(one, 255), big.NewInt(19))
	curveD     = func() *big.Int { // "d = -121665/121666", RFC 8032 section 5.1
		d := new(big.Int).ModInverse(big.NewInt(121666), fieldPrime)
		return d.Mod(d.Mul(d, big.NewInt(-121665)), fieldPrime)
	}()
)

// validate says why id cannot be the key of a peer. Anybody can sign for a
// point of small order (of order 1, 2, 4 or 8) and nobody for one off the
// curve, so neither names a peer; a coordinate beyond the field would give one
// peer two IDs. IDs are public: the arithmetic need not run in constant time.
func (id PeerID) validate() error {
	y := id.coordinate()
	if y.Cmp(fieldPrime) >= 0 {
		return errors.New("not a valid key: coordinate out of range")
	}
	mod := func(x *big.Int) *big.Int { return x.Mod(x, fieldPrime) }
	yy := mod(new(big.Int).Mul(y, y))
	dyy := mod(new(big.Int).Mul(curveD, yy))
	numerator := mod(new(big.Int).Sub(yy, one))

	// A point of order 1 or 2 has y = 1 or -1, one of order 4 has y = 0, and one
	// of order 8 doubles to y = 0, which on the curve means d*y^4 + 2*y^2 = 1.
	double := new(big.Int).Mul(dyy, yy)
	double = mod(double.Add(double, numerator).Add(double, yy))
	if y.Sign() == 0 || numerator.Sign() == 0 || double.Sign() == 0 {
		return errors.New("not a valid key: point of small order")
	}
	// "x^2 = (y^2 - 1) / (d y^2 + 1)", RFC 8032 section 5.1.3, has a root where
	// numerator times denominator is a square.
	square := mod(numerator.Mul(numerator, dyy.Add(dyy, one)))
	if big.Jacobi(square, fieldPrime) != 1 {
		return errors.New("not a valid key: no point of the curve")
	}
	return nil
}

// coordinate is y of the point; the sign of x is the top bit and is left out.
func (id PeerID) coordinate() *big.Int {
	id[len(id)-1] &= 0x7f
	slices.Reverse(id[:])
	return new(big.Int).SetBytes(id[:])
}

// montgomery maps the point to X25519: "u = (1+y)/(1-y)", RFC 7748 section 4.1.
func (id PeerID) montgomery() (u [32]byte, err error) {
	if err := id.validate(); err != nil {
		return u, err
	}
	y := id.coordinate()
	inverse := new(big.Int).ModInverse(new(big.Int).Sub(one, y), fieldPrime)
	inverse.Mul(inverse, y.Add(y, one)).Mod(inverse, fieldPrime).FillBytes(u[:])
	slices.Reverse(u[:])
	return u, nil
}
