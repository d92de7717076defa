package kclient

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// authority signs certificates for the tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // PEM
}

func newAuthority(t *testing.T, dir string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "ca.pem")
	writePEM(t, file, "CERTIFICATE", der)
	return authority{cert, key, file}
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// issue writes <name>.pem and <name>-key.pem, valid for 127.0.0.1.
func (a authority) issue(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "PRIVATE KEY", pkcs8)
	return certFile, keyFile
}

func fakeCluster(t *testing.T, opts ...kfake.Opt) string {
	t.Helper()
	c, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0]
}

func metadata(t *testing.T, o Options) error {
	t.Helper()
	cl, err := New(o, kgo.RequestRetries(0))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl)
	return err
}

func TestNew_TLSAndSCRAM(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	pair, err := LoadKeyPair(ca.issue(t, dir, "broker"))
	if err != nil {
		t.Fatal(err)
	}
	addr := fakeCluster(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS12}),
		kfake.EnableSASL(), kfake.Superuser(MechanismScramSHA512, "dr", "hunter2"), kfake.Superuser(MechanismScramSHA256, "dr", "hunter2"), kfake.Superuser(MechanismPlain, "dr", "hunter2"))
	base := Options{Name: "west", BootstrapServers: []string{addr}, TLS: &TLS{CAFile: ca.file}}
	for _, m := range []string{MechanismPlain, MechanismScramSHA256, MechanismScramSHA512} {
		o := base
		o.SASL = &SASL{Mechanism: m, Username: "dr", Password: dr.NewSecret("hunter2")}
		if err := metadata(t, o); err != nil {
			t.Errorf("%s: %v", m, err)
		}
		o.SASL = &SASL{Mechanism: m, Username: "dr", Password: dr.NewSecret("wrong-password")}
		// The fake broker hangs up where a real one answers
		// SASL_AUTHENTICATION_FAILED, so the cause is not checked here.
		err := metadata(t, o)
		if err == nil {
			t.Errorf("%s: a wrong password was accepted", m)
		} else if strings.Contains(err.Error(), "wrong-password") {
			t.Errorf("%s: the error shows the password: %v", m, err)
		}
	}

	// A wrong authority, a wrong name and no TLS at all each say so.
	other := newAuthority(t, t.TempDir())
	for _, tt := range []struct {
		name, want string
		tls        *TLS
	}{
		{"authority", "tls handshake with " + addr + " (cluster west): the broker's certificate is not signed by a known authority", &TLS{CAFile: other.file}},
		{"name", "the broker's certificate is for another name", &TLS{CAFile: ca.file, ServerName: "kafka.example"}},
	} {
		o := base
		o.TLS = tt.tls
		err := metadata(t, o)
		if CauseOf(err) != CauseTLS || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: cause %s of %v, want %s and %q", tt.name, CauseOf(err), err, CauseTLS, tt.want)
		}
	}
	o := base
	o.TLS = &TLS{InsecureSkipVerify: true}
	o.SASL = &SASL{Mechanism: MechanismPlain, Username: "dr", Password: dr.NewSecret("hunter2")}
	if err := metadata(t, o); err != nil {
		t.Errorf("insecure_skip_verify: %v", err)
	}
}

func TestNew_DialErrorsNameAddressAndReason(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	// A listener that accepts and says nothing: TLS has to time out.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	plaintext := fakeCluster(t)
	for _, tt := range []struct {
		name  string
		o     Options
		cause Cause
		want  string
	}{
		{"refused", Options{BootstrapServers: []string{closed}}, CauseRefused, "connect to " + closed + " (cluster west): connection refused"},
		{"silent", Options{BootstrapServers: []string{silent.Addr().String()}, TLS: &TLS{InsecureSkipVerify: true}, DialTimeout: 200 * time.Millisecond}, CauseTLS, "tls handshake with " + silent.Addr().String() + " (cluster west): timed out"},
		{"plaintext", Options{BootstrapServers: []string{plaintext}, TLS: &TLS{InsecureSkipVerify: true}, DialTimeout: time.Second}, CauseTLS, "tls handshake with " + plaintext},
		{"host", Options{BootstrapServers: []string{"no-such-host.invalid:9092"}, Dialer: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "no-such-host.invalid", IsNotFound: true}}
		}}, CauseUnknownHost, "connect to no-such-host.invalid:9092 (cluster west): host not found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := tt.o
			o.Name = "west"
			cl, err := New(o, kgo.RequestRetries(0))
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			_, err = kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), cl)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
			if got := CauseOf(err); got != tt.cause {
				t.Errorf("cause %s, want %s (%v)", got, tt.cause, err)
			}
		})
	}
}

func TestTLS_ClientCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	certFile, keyFile := ca.issue(t, dir, "client")
	src, err := newTLSSource(TLS{CAFile: ca.file, CertFile: certFile, KeyFile: keyFile}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	leaf := func() []byte {
		c, err := src.config("h").GetClientCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Certificate[0]
	}
	first := leaf()
	// The key is replaced first: the pair does not fit, the old one stays.
	freshDir := t.TempDir()
	freshCert, freshKey := ca.issue(t, freshDir, "client")
	move(t, freshKey, keyFile)
	if !bytes.Equal(leaf(), first) {
		t.Error("a half-replaced pair was used")
	}
	move(t, freshCert, certFile)
	if bytes.Equal(leaf(), first) {
		t.Error("the new certificate is not used")
	}
	if got := src.config("h").MinVersion; got != tls.VersionTLS12 {
		t.Errorf("minimum version %x", got)
	}
}

func move(t *testing.T, from, to string) {
	t.Helper()
	// The modification time moves even on file systems with coarse clocks.
	later := time.Now().Add(2 * time.Second)
	if err := errors.Join(os.Chtimes(from, later, later), os.Rename(from, to)); err != nil {
		t.Fatal(err)
	}
}

func TestOptions_ValidateListsEveryProblem(t *testing.T) {
	t.Parallel()
	o := Options{
		BootstrapServers: []string{"east", "east:0", ":9092", "a:b:c", "east:kafka", "east:9092", "[::1]:9092"},
		TLS:              &TLS{CertFile: "c.pem"},
		SASL:             &SASL{Mechanism: "SCRAM-SHA-512"},
	}
	err := o.Validate()
	want := strings.Join([]string{
		`bootstrap_servers: "east" has no port (write host:port)`,
		`bootstrap_servers: "east:0": "0" is not a port number between 1 and 65535`,
		`bootstrap_servers: ":9092" has no host (write host:port)`,
		`bootstrap_servers: "a:b:c" is not host:port`,
		`bootstrap_servers: "east:kafka": "kafka" is not a port number between 1 and 65535`,
		`tls: cert_file and key_file are needed together`,
		`sasl.username: needed for SCRAM-SHA-512`,
		`sasl.password: needed for SCRAM-SHA-512`,
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	for u, want := range map[string]string{
		"https://id.example/token":     "",
		"http://127.0.0.1:8080/token":  "",
		"http://[::1]:8080/token":      "",
		"http://id.example/token":      "must be https unless the host is a loopback address",
		"ftp://id.example/token":       "must start with https://",
		"https:///token":               "has no host",
		"https://a:b@id.example/token": "must not hold a user name or password",
	} {
		got := ""
		if err := CheckTokenURL(u); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", u, got, want)
		}
	}
}

func TestLogger_HandsOverToSlog(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	l := newLogger(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelInfo})), "west", NewWarnings())
	if l.Level() != kgo.LogLevelWarn {
		t.Errorf("level %v, want %v", l.Level(), kgo.LogLevelWarn)
	}
	l.Log(kgo.LogLevelInfo, "noise")
	l.Log(kgo.LogLevelError, "unable to open connection", "addr", "h:1", "err", errors.New("refused"), "dangling")
	got := b.String()
	if strings.Contains(got, "noise") || !strings.Contains(got, `level=WARN msg="unable to open connection" component=kafka_client cluster=west addr=h:1 error=refused`) {
		t.Errorf("got %s", got)
	}
}

func TestSoftwareVersion_IsAcceptable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"v1.2.3": "v1.2.3", "v1.2.3+dirty": "v1.2.3-dirty", "(devel)": "-devel-", "": "dev"} {
		if got := softwareVersion(in); got != strings.Trim(want, "-.") {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
