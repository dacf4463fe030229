// Command demo shows the driver's main job on one machine: no Azure, no cluster, no network. It starts the emulator of Key
// Vault and Entra ID and the driver against it, and calls the driver as kubelet would.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// inside marks the process that runs in namespaces of its own.
const inside = "KEYVAULT_CSI_DEMO_INSIDE"

const seedText = kubelet.Seed + `
  secrets:
  - {name: db-password, value: "correct horse battery staple"}
  - {name: api-key, value: "k-1234567890"}
  certificates:
  - {name: shop-tls, subject: shop.example.com, chain: 1, keyType: EC}
latency: 20ms
`

const classText = `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: shop
  namespace: default
spec:
  provider: azure
  parameters:
    keyvaultName: contoso
    tenantID: ` + kubelet.Tenant + `
    clientID: ` + kubelet.Client + `
    objects: |
      array:
        - |
          objectName: db-password
          objectType: secret
          filePermission: "0400"
        - |
          objectName: api-key
          objectType: secret
          objectAlias: keys/api
        - |
          objectName: shop-tls
          objectType: secret
          objectAlias: tls/server.pem
`

func main() {
	if len(os.Args) != 2 {
		fail(errors.New("usage: demo DRIVER-BINARY"))
	}
	if os.Getenv(inside) == "" {
		fail(enter())
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	fail(run(ctx, os.Args[1]))
}

func fail(err error) {
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// enter runs this program again in a mount namespace of its own, so that no mount is left behind; as an ordinary user, in
// a user namespace too, where mounting is allowed.
func enter() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:noctx,gosec // this program, which ends with its child
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("run in a mount namespace (as an ordinary user this needs unprivileged user namespaces): %w", err)
	}
	return nil
}

// demo is what runs.
type demo struct {
	dir      string
	emulator *emulator.Server
	issuer   *emulatortest.Issuer
	node     csi.NodeClient
}

func run(ctx context.Context, binary string) (err error) {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	d := &demo{}
	if d.dir, err = os.MkdirTemp("", "keyvault-csi-demo-"); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	if err := d.startEmulator(); err != nil { //nolint:contextcheck // the emulator has a life of its own
		return err
	}
	defer func() { err = errors.Join(err, d.emulator.Close()) }()
	stop, err := d.startDriver(ctx, binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return d.show(ctx)
}

func (d *demo) startEmulator() error {
	heading("1. A vault, without Azure")
	seed, err := emulator.ParseSeed([]byte(seedText))
	if err != nil {
		return err
	}
	if d.issuer, err = emulatortest.NewIssuer("https://oidc.example.com/cluster/"); err != nil {
		return err
	}
	seed.Issuers = []emulator.Issuer{{Issuer: d.issuer.URL, PublicKey: d.issuer.PublicKey()}}
	if d.emulator, err = emulator.New(emulator.Options{Seed: seed}); err != nil {
		return err
	}
	if err := d.emulator.Start("127.0.0.1:0"); err != nil {
		return err
	}
	say("keyvault-emulator answers as https://contoso.vault.azure.net and https://login.microsoftonline.com,")
	say("over TLS, 20 ms away. Its vault holds the secrets db-password and api-key and the certificate shop-tls.")
	return nil
}

// startDriver runs the driver's binary and returns how to stop it.
func (d *demo) startDriver(ctx context.Context, binary string) (stop func() error, err error) {
	heading("2. The driver, with a class")
	ca := filepath.Join(d.dir, "ca.pem")
	classes := filepath.Join(d.dir, "classes")
	if err := errors.Join(os.WriteFile(ca, d.emulator.CAPEM(), 0o600), os.Mkdir(classes, 0o750),
		os.WriteFile(filepath.Join(classes, "shop.yaml"), []byte(classText), 0o600)); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	indent(classText)
	socket := "unix://" + filepath.Join(d.dir, "csi.sock")
	log, err := os.Create(filepath.Join(d.dir, "driver.log"))
	if err != nil {
		return nil, fmt.Errorf("driver's log: %w", err)
	}
	cmd := exec.Command(binary, "driver", "--endpoint", socket, "--node-id", "demo", "--kubelet-dir", d.dir, //nolint:gosec,noctx // the built driver
		"--classes", classes, "--rotation-interval", "2s", "--http-addr", "", "--admin-addr", "")
	proxy := d.emulator.ProxyURL().String()
	cmd.Env = append(os.Environ(), "HTTPS_PROXY="+proxy, "HTTP_PROXY="+proxy, "NO_PROXY=", "SSL_CERT_FILE="+ca)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the driver: %w", err)
	}
	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	d.node = csi.NewNodeClient(conn)
	info, err := d.node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("the driver does not answer: %w", err)
	}
	say("the driver serves its CSI socket on node %q", info.GetNodeId())
	return func() error {
		return errors.Join(conn.Close(), cmd.Process.Signal(syscall.SIGTERM), cmd.Wait(), log.Close())
	}, nil
}

// show plays kubelet.
func (d *demo) show(ctx context.Context) error {
	heading("3. A pod starts: kubelet calls NodePublishVolume with the pod's service account token")
	took, err := d.publish(ctx, "pod-a", "shop")
	if err != nil {
		return err
	}
	say("mounted in %v: %s", took.Round(time.Millisecond), d.requests())
	if err := d.tree("pod-a"); err != nil {
		return err
	}

	heading("4. A second pod of the same service account")
	if took, err = d.publish(ctx, "pod-b", "shop"); err != nil {
		return err
	}
	say("mounted in %v: %s", took.Round(time.Millisecond), d.requests())

	heading("5. Somebody changes db-password in the vault; the driver looks every 2 s here")
	if _, err := d.emulator.SetSecret("contoso", emulator.Secret{Name: "db-password", Value: "a new one"}); err != nil {
		return err
	}
	start := time.Now()
	for _, pod := range []string{"pod-a", "pod-b"} {
		for d.read(pod, "db-password") != "a new one" {
			if time.Since(start) > 30*time.Second {
				return errors.New("the change did not arrive")
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	say("after %v both pods read %q; requests for both pods together: %s", time.Since(start).Round(100*time.Millisecond),
		d.read("pod-b", "db-password"), d.requests())

	heading("6. An error, as the pod's events show it")
	broken := strings.Replace(strings.Replace(classText, "name: shop", "name: broken", 1), "objectName: api-key", "objectName: api-kee", 1)
	if err := os.WriteFile(filepath.Join(d.dir, "classes", "broken.yaml"), []byte(broken), 0o600); err != nil {
		return fmt.Errorf("second class: %w", err)
	}
	for {
		_, err = d.publish(ctx, "pod-c", "broken")
		if err == nil {
			return errors.New("a class with a missing secret was mounted")
		}
		if !strings.Contains(err.Error(), "secretproviderclass") {
			break
		}
		time.Sleep(20 * time.Millisecond) // the driver has not seen the file yet
	}
	say("%s: %s", status.Code(err), status.Convert(err).Message())
	_ = d.requests()

	heading("7. The pods go")
	for _, pod := range []string{"pod-a", "pod-b"} {
		if _, err := d.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{
			VolumeId: "csi-" + pod, TargetPath: kubelet.Target(d.dir, pod),
		}); err != nil {
			return fmt.Errorf("unpublish: %w", err)
		}
	}
	left, err := filepath.Glob(filepath.Join(d.dir, "pods/*/volumes/kubernetes.io~csi/*/mount"))
	if err != nil || len(left) > 0 {
		return fmt.Errorf("left behind: %v %w", left, err)
	}
	say("no mount and no directory is left.")
	return nil
}

func (d *demo) publish(ctx context.Context, pod, class string) (time.Duration, error) {
	target := kubelet.Target(d.dir, pod)
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return 0, fmt.Errorf("pod directory: %w", err)
	}
	tokens := kubelet.Tokens(d.issuer, "default", "app", time.Hour)
	start := time.Now()
	_, err := d.node.NodePublishVolume(ctx, kubelet.PublishRequest(target, pod, class, tokens))
	return time.Since(start), err
}

// requests says what reached the vault and Entra ID since the last call.
func (d *demo) requests() string {
	counts := d.emulator.Counts()
	d.emulator.ResetRequests()
	vault := counts["get secret"] + counts["get key"] + counts["get certificate"]
	entra := counts["token"] + counts["openid configuration"] + counts["discovery"]
	return fmt.Sprintf("%d requests to the vault, %d to Entra ID", vault, entra)
}

func (d *demo) read(pod, path string) string {
	data, err := os.ReadFile(filepath.Join(kubelet.Target(d.dir, pod), path)) //nolint:gosec // the demo's own file
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// tree shows the volume as the pod sees it.
func (d *demo) tree(pod string) error {
	target := kubelet.Target(d.dir, pod)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 5 && fields[4] == target {
			_, super, _ := strings.Cut(line, " - ")
			say("mount: %s %s", fields[5], strings.TrimSpace(super))
		}
	}
	for _, path := range []string{"db-password", "keys/api", "tls/server.pem"} {
		info, err := os.Stat(filepath.Join(target, path))
		if err != nil {
			return fmt.Errorf("file: %w", err)
		}
		content := d.read(pod, path)
		if first, rest, more := strings.Cut(content, "\n"); more {
			content = fmt.Sprintf("%s … (%d more lines)", first, strings.Count(rest, "\n"))
		}
		say("%s  %-15s %4d bytes   %s", info.Mode(), path, info.Size(), content)
	}
	return nil
}

func heading(text string) { fmt.Printf("\n== %s\n", text) }

func say(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }

func indent(text string) {
	for line := range strings.Lines(text) {
		fmt.Print("   | " + line)
	}
}
