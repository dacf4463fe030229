package emulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// newControl serves the control API, JSON over plain HTTP under the host emulator.local, and the page beside it.
// docs/emulator.md describes them.
func (s *Server) newControl() http.Handler {
	mux := http.NewServeMux()
	s.routePages(mux)
	command := func(pattern string, f func(*json.Decoder) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<20))
			decoder.DisallowUnknownFields()
			result, err := f(decoder)
			w.Header().Set("Content-Type", "application/json")
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				result = map[string]string{"error": err.Error()}
			}
			if result == nil {
				result = map[string]string{"result": "ok"}
			}
			_ = json.NewEncoder(w).Encode(result)
		})
	}
	command("GET /healthz", func(*json.Decoder) (any, error) { return nil, nil })
	mux.HandleFunc("GET /ca.pem", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(s.CAPEM())
	})
	command("GET /requests", func(*json.Decoder) (any, error) { return s.Requests(), nil })
	command("GET /counts", func(*json.Decoder) (any, error) { return s.Counts(), nil })
	command("POST /events", decoded(func(in struct {
		To string `json:"to"`
		CA string `json:"ca"`
	},
	) (any, error) {
		target, err := ParseEventTarget(in.To)
		if err != nil {
			return nil, err
		}
		s.SendEvents(target, []byte(in.CA))
		return nil, nil
	}))
	command("DELETE /requests", func(*json.Decoder) (any, error) {
		s.ResetRequests()
		return nil, nil
	})
	command("POST /faults", decoded(func(f Fault) (any, error) {
		if err := f.Validate(); err != nil {
			return nil, err
		}
		return map[string]string{"id": s.AddFault(f)}, nil
	}))
	command("DELETE /faults", func(*json.Decoder) (any, error) {
		s.ClearFaults()
		return nil, nil
	})
	command("POST /latency", decoded(func(in struct {
		Latency Duration `json:"latency"`
	},
	) (any, error) {
		s.SetLatency(time.Duration(in.Latency))
		return nil, nil
	}))
	command("POST /clock", decoded(func(in struct {
		Advance Duration `json:"advance"`
	},
	) (any, error) {
		s.AdvanceClock(time.Duration(in.Advance))
		return nil, nil
	}))
	command("POST /tokens/revoke", func(*json.Decoder) (any, error) {
		s.RevokeTokens()
		return nil, nil
	})
	command("POST /issuers", decoded(func(i Issuer) (any, error) { return nil, s.Apply(Seed{Issuers: []Issuer{i}}) }))
	command("POST /tenants", decoded(func(t Tenant) (any, error) { return nil, s.Apply(Seed{Tenants: []Tenant{t}}) }))
	command("POST /identities", decoded(func(m ManagedIdentity) (any, error) {
		return nil, s.Apply(Seed{ManagedIdentities: []ManagedIdentity{m}})
	}))
	command("POST /vaults", decoded(func(v Vault) (any, error) { return nil, s.Apply(Seed{Vaults: []Vault{v}}) }))
	mux.HandleFunc("POST /vaults/{vault}/{what}", func(w http.ResponseWriter, r *http.Request) {
		result, err := s.change(r.PathValue("vault"), r.PathValue("what"), json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<20)))
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			result = map[string]string{"error": err.Error()}
		}
		_ = json.NewEncoder(w).Encode(result)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "no such command: " + r.Method + " " + r.URL.Path})
	})
	return s.guard(mux)
}

// decoded reads a command's input.
func decoded[T any](f func(T) (any, error)) func(*json.Decoder) (any, error) {
	return func(d *json.Decoder) (any, error) {
		var in T
		if err := d.Decode(&in); err != nil {
			return nil, fmt.Errorf("input: %w", err)
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return nil, errors.New("input: one JSON object is expected, and nothing after it")
		}
		return f(in)
	}
}

// change is one change of a vault.
func (s *Server) change(vault, what string, d *json.Decoder) (any, error) {
	d.DisallowUnknownFields()
	ok := map[string]string{"result": "ok"}
	switch what {
	case "secrets":
		return decoded(func(in Secret) (any, error) {
			version, err := s.SetSecret(vault, in)
			return map[string]string{"version": version}, err
		})(d)
	case "keys":
		return decoded(func(in Key) (any, error) { return ok, s.SetKey(vault, in) })(d)
	case "certificates":
		return decoded(func(in Certificate) (any, error) { return ok, s.SetCertificate(vault, in) })(d)
	case "grants":
		return decoded(func(in Grant) (any, error) { return ok, s.Grant(vault, in.ClientID, in.Permissions...) })(d)
	case "network":
		return decoded(func(in struct {
			Network string `json:"network"`
		},
		) (any, error) {
			return ok, s.SetNetwork(vault, in.Network)
		})(d)
	case "attributes":
		return decoded(func(in struct {
			Kind    string `json:"kind"`
			Name    string `json:"name"`
			Version string `json:"version"`
			Attributes
		},
		) (any, error) {
			return ok, s.SetAttributes(vault, in.Kind, in.Name, in.Version, in.Attributes)
		})(d)
	case "disable", "enable", "delete", "recover":
		return decoded(func(in struct {
			Kind    string `json:"kind"`
			Name    string `json:"name"`
			Version string `json:"version"`
		},
		) (any, error) {
			if what == "disable" || what == "enable" {
				return ok, s.Disable(vault, in.Kind, in.Name, in.Version, what == "disable")
			}
			return ok, s.Delete(vault, in.Kind, in.Name, what == "delete")
		})(d)
	}
	return nil, fmt.Errorf("unknown change %q: one of secrets, keys, certificates, attributes, grants, network, disable, enable, delete and "+
		"recover", what)
}
