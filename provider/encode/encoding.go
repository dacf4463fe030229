package encode

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
)

// The names of the encodings, as objectEncoding spells them.
const (
	EncodingUTF8   = "utf-8"
	EncodingBase64 = "base64"
	EncodingHex    = "hex"
)

// Decode turns the text of a secret into the bytes of its file. Encoding is EncodingUTF8 or empty (the text as it is),
// EncodingBase64 (standard alphabet, padded; line ends inside are skipped) or EncodingHex (either letter case).
func Decode(text, encoding string) ([]byte, error) {
	switch encoding {
	case "", EncodingUTF8:
		return []byte(text), nil
	case EncodingBase64:
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			if offset, ok := errors.AsType[base64.CorruptInputError](err); ok {
				return nil, fmt.Errorf("objectEncoding is base64 and the value is not base64 (standard alphabet, padded) "+
					"at byte %d of %d: store the value in base64, or remove objectEncoding", int64(offset), len(text))
			}
			return nil, fmt.Errorf("objectEncoding is base64 and the value is not base64: %w", err)
		}
		return data, nil
	case EncodingHex:
		data, err := hex.DecodeString(text)
		if err == nil {
			return data, nil
		}
		if errors.Is(err, hex.ErrLength) {
			return nil, fmt.Errorf("objectEncoding is hex and the value has an odd number of digits (%d): "+
				"store the value in hex, or remove objectEncoding", len(text))
		}
		// The library's text names the offending character, which is part of the secret: the position says as much.
		return nil, fmt.Errorf("objectEncoding is hex and the value has something else than a hex digit at byte %d of %d: "+
			"store the value in hex, or remove objectEncoding", firstNonHex(text), len(text))
	default:
		return nil, fmt.Errorf("objectEncoding %q is none of utf-8, base64 and hex", encoding)
	}
}

// firstNonHex returns the offset of the first byte that is not a hex digit, else the text's length.
func firstNonHex(text string) int {
	for i := range len(text) {
		switch c := text[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f', 'A' <= c && c <= 'F':
		default:
			return i
		}
	}
	return len(text)
}
