package rc2

import (
	"encoding/hex"
	"testing"
)

// TestVectors checks the test vectors of RFC 2268, section 5.
func TestVectors(t *testing.T) {
	for _, vector := range []struct {
		key       string
		effective int
		plain     string
		cipher    string
	}{
		{"0000000000000000", 63, "0000000000000000", "ebb773f993278eff"},
		{"ffffffffffffffff", 64, "ffffffffffffffff", "278b27e42e2f0d49"},
		{"3000000000000000", 64, "1000000000000001", "30649edf9be7d2c2"},
		{"88", 64, "0000000000000000", "61a8a244adacccf0"},
		{"88bca90e90875a", 64, "0000000000000000", "6ccf4308974c267f"},
		{"88bca90e90875a7f0f79c384627bafb2", 64, "0000000000000000", "1a807d272bbe5db1"},
		{"88bca90e90875a7f0f79c384627bafb2", 128, "0000000000000000", "2269552ab0f85ca6"},
		{"88bca90e90875a7f0f79c384627bafb216f80a6f85920584c42fceb0be255daf1e", 129, "0000000000000000", "5b78d3a43dfff1f1"},
	} {
		var plain [BlockSize]byte
		newDecrypter(decodeHex(t, vector.key), vector.effective).Decrypt(plain[:], decodeHex(t, vector.cipher))
		if got := hex.EncodeToString(plain[:]); got != vector.plain {
			t.Errorf("key %s, %d bits: got %s, want %s", vector.key, vector.effective, got, vector.plain)
		}
	}
}

func TestWrongLengths(t *testing.T) {
	for _, lengths := range [][2]int{{0, 8}, {129, 8}, {16, 7}, {16, 16}} {
		if _, err := NewCBCDecrypter(make([]byte, lengths[0]), make([]byte, lengths[1])); err == nil {
			t.Errorf("key of %d and iv of %d bytes were accepted", lengths[0], lengths[1])
		}
	}
}

func decodeHex(t *testing.T, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRightLengths(t *testing.T) {
	for _, size := range []int{1, 16, 128} {
		if _, err := NewCBCDecrypter(make([]byte, size), make([]byte, BlockSize)); err != nil {
			t.Errorf("key of %d bytes: %v", size, err)
		}
	}
}
