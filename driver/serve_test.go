package driver

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// brokenWatch are classes whose watch ends with an error.
type brokenWatch struct{ Classes }

func (brokenWatch) Watch(context.Context, func(namespace, name string)) error {
	return errors.New("the API server is another one")
}

// What Serve cannot serve is an error that names the file and what to do. It then leaves no socket.
func TestServeSaysWhyItCannot(t *testing.T) {
	n := startNode(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(filepath.Join(full, n.driver.name+"-reg.sock", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	free := "unix://" + filepath.Join(dir, "csi.sock")
	for name, tc := range map[string]struct {
		options ServeOptions
		classes Classes
		says    string
	}{
		"no unix socket":                 {options: ServeOptions{Endpoint: "tcp://127.0.0.1:1"}, says: "write unix:///csi/csi.sock"},
		"no path":                        {options: ServeOptions{Endpoint: "unix://"}, says: "write unix:///csi/csi.sock"},
		"no directory":                   {options: ServeOptions{Endpoint: free + "/none/csi.sock"}, says: "socket directory"},
		"a file":                         {options: ServeOptions{Endpoint: "unix://" + file}, says: "exists and is no socket: remove it"},
		"too long for a socket":          {options: ServeOptions{Endpoint: free + strings.Repeat("x", 120)}, says: "listen"},
		"no registration directory":      {options: ServeOptions{Endpoint: free, RegistrationDir: dir + "/none"}, says: "registration socket"},
		"a directory as registration":    {options: ServeOptions{Endpoint: free, RegistrationDir: full}, says: "exists and is no socket"},
		"classes that cannot be watched": {options: ServeOptions{Endpoint: free}, classes: brokenWatch{n.classes}, says: "watch classes: the API server"},
	} {
		t.Run(name, func(t *testing.T) {
			options := n.options
			if tc.classes != nil {
				options.Classes = tc.classes
			}
			d, err := New(options)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Serve(t.Context(), tc.options); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "csi.sock")); !os.IsNotExist(err) {
				t.Errorf("its socket: %v", err)
			}
		})
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("what is no socket is gone: %v", err)
	}
}

// A path without a slash was always read as one from the root.
func TestEndpointWithoutASlash(t *testing.T) {
	n := startNode(t)
	socket := filepath.Join(n.dir, "csi.sock")
	if err := Ask(t.Context(), "unix://"+strings.TrimPrefix(socket, "/")); err != nil {
		t.Error(err)
	}
	for _, endpoint := range []string{"tcp://127.0.0.1:1", "unix://" + socket + "-none"} {
		if err := Ask(t.Context(), endpoint); err == nil {
			t.Errorf("%s answers", endpoint)
		}
	}
}

// A socket whose directory went away under the driver does not keep it from ending.
func TestEndWithoutTheDirectoryOfTheSocket(t *testing.T) {
	n := startNode(t)
	n.stop()
	dir := filepath.Join(t.TempDir(), "sub")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := New(n.options)
	if err != nil {
		t.Fatal(err)
	}
	n.driver = d
	n.serve(ServeOptions{Endpoint: "unix://" + filepath.Join(dir, "csi.sock")})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	n.stop()
	if !strings.Contains(n.log.String(), "a socket is left behind") {
		t.Error("nothing says so")
	}
}

// A caller that goes away gets the code that says so, as does one whose time is up.
func TestCodesOfCallersThatGoAway(t *testing.T) {
	for err, want := range map[error]codes.Code{
		context.Canceled:         codes.Canceled,
		context.DeadlineExceeded: codes.DeadlineExceeded,
		net.ErrClosed:            codes.Internal,
	} {
		n := startNode(t)
		n.vault.Locked(func() { n.vault.Fail = err })
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user"})
		_, got := n.NodePublishVolume(t.Context(), n.request("a", "db"))
		if status.Code(got) != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// What New needs and does not get is an error.
func TestOptionsThatAreIncomplete(t *testing.T) {
	n := startNode(t)
	for name, edit := range map[string]func(*Options){
		"a name that is none": func(o *Options) { o.Name = "-secrets-" },
		"no node":             func(o *Options) { o.NodeID = "" },
	} {
		options := n.options
		edit(&options)
		if _, err := New(options); err == nil {
			t.Error(name)
		}
	}
}
