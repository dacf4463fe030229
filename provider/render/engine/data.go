package engine

import (
	"encoding/json"
	"strconv"
)

// comparableOf turns numbers into those that JMESPath compares and counts with, where that loses nothing of how they are
// written: 5432 is one, 12345678901234567890 and 1.50 stay as they are.
func comparableOf(value any) any {
	return numbers(value, func(n json.Number) any {
		float, err := n.Float64()
		if err != nil || strconv.FormatFloat(float, 'f', -1, 64) != n.String() {
			return n
		}
		return float
	})
}

// countable turns numbers into those that templates compare and count with: whole ones into int64, others as comparableOf
// does.
func countable(value any) any {
	return numbers(value, func(n json.Number) any {
		if whole, err := n.Int64(); err == nil {
			return whole
		}
		return comparableOf(n)
	})
}

// numbers replaces all numbers in a value.
func numbers(value any, by func(json.Number) any) any {
	switch v := value.(type) {
	case json.Number:
		return by(v)
	case []any:
		for i := range v {
			v[i] = numbers(v[i], by)
		}
	case map[string]any:
		for key := range v {
			v[key] = numbers(v[key], by)
		}
	}
	return value
}
