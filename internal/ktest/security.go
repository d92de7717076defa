package ktest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Auth holds what clients of a SASLSSL cluster need. All files are PEM. The
// users are known to PLAIN and both SCRAM mechanisms; the certificates name
// the same users in their common name. "admin" is a super user, "client" may
// do nothing until it is given ACLs.
type Auth struct {
	CAFile string

	AdminUser, AdminPassword      string
	AdminCertFile, AdminKeyFile   string
	ClientUser, ClientPassword    string
	ClientCertFile, ClientKeyFile string
}

// newAuth makes a certificate authority, certificates and passwords in dir,
// and the key store of the brokers.
func newAuth(dir string) (*Auth, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	a := &Auth{
		CAFile:    filepath.Join(dir, "ca.pem"),
		AdminUser: "admin", AdminPassword: rand.Text(),
		AdminCertFile: filepath.Join(dir, "admin.pem"), AdminKeyFile: filepath.Join(dir, "admin-key.pem"),
		ClientUser: "client", ClientPassword: rand.Text(),
		ClientCertFile: filepath.Join(dir, "client.pem"), ClientKeyFile: filepath.Join(dir, "client-key.pem"),
	}
	if err := os.WriteFile(a.CAFile, ca.pem, 0o600); err != nil {
		return nil, fmt.Errorf("write certificate authority: %w", err)
	}
	for _, c := range []struct{ name, cert, key string }{
		{a.AdminUser, a.AdminCertFile, a.AdminKeyFile},
		{a.ClientUser, a.ClientCertFile, a.ClientKeyFile},
		{"broker", filepath.Join(dir, "broker.pem"), filepath.Join(dir, "broker-key.pem")},
	} {
		cert, key, err := ca.issue(c.name)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(c.cert, cert, 0o600); err != nil {
			return nil, fmt.Errorf("write certificate of %s: %w", c.name, err)
		}
		if err := os.WriteFile(c.key, key, 0o600); err != nil {
			return nil, fmt.Errorf("write key of %s: %w", c.name, err)
		}
		if c.name == "broker" {
			// Kafka wants key and chain in one PEM file (KIP-651).
			if err := os.WriteFile(brokerKeyStore(dir), append(key, cert...), 0o600); err != nil {
				return nil, fmt.Errorf("write key store: %w", err)
			}
		}
	}
	return a, nil
}

func brokerKeyStore(dir string) string { return filepath.Join(dir, "broker-keystore.pem") }

// TLSConfig returns a client configuration that trusts the cluster and shows
// no certificate.
func (a *Auth) TLSConfig() (*tls.Config, error) {
	raw, err := os.ReadFile(a.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("read certificate authority: no certificate in %s", a.CAFile)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// authority signs certificates for one cluster.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of certificate authority: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "ktest"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(30 * 24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse certificate authority: %w", err)
	}
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// issue returns certificate and PKCS #8 key of a common name, in PEM, good for
// servers on the loopback address and for clients.
func (a *authority) issue(name string) (cert, key []byte, err error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key of %s: %w", name, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return nil, nil, fmt.Errorf("make serial number: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    a.cert.NotBefore,
		NotAfter:     a.cert.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &priv.PublicKey, a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate of %s: %w", name, err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key of %s: %w", name, err)
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	return cert, key, nil
}
