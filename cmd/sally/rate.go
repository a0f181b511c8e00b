package main

import (
	"strconv"
	"strings"
)

// parseRate reads a number of bits per second with a unit: bit, kbit, mbit or gbit.
func parseRate(text string) (bitsPerSecond float64, err error) {
	number, factor := strings.ToLower(text), 1.0
	for _, unit := range []struct {
		name   string
		factor float64
	}{{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {"bit", 1}} {
		if n, ok := strings.CutSuffix(number, unit.name); ok {
			number, factor = n, unit.factor
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n*factor >= 1e4 && n*factor <= 1e15) {
		return 0, usagef("--max-rate %q: want a rate of 10kbit or more, as in 10mbit", text)
	}
	return n * factor, nil
}
