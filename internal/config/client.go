package config

import "github.com/anabranch/anabranch/internal/kclient"

// ClientOptions returns how to reach a cluster. The caller adds what is not in
// the file: logger, client id, hooks. ok is false for an unknown name.
func (c *Config) ClientOptions(cluster string) (o kclient.Options, ok bool) {
	cl, ok := c.Clusters[cluster]
	if !ok {
		return kclient.Options{}, false
	}
	o = kclient.Options{Name: cluster, BootstrapServers: cl.BootstrapServers}
	if t := cl.TLS; t != nil {
		o.TLS = &kclient.TLS{CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify}
	}
	if s := cl.SASL; s != nil {
		o.SASL = &kclient.SASL{Mechanism: s.Mechanism, Username: s.Username, Password: s.Password}
		if a := s.OAuth; a != nil {
			o.SASL.OAuth = kclient.OAuth{TokenURL: a.TokenURL, ClientID: a.ClientID, ClientSecret: a.ClientSecret, Scope: a.Scope, CAFile: a.CAFile}
		}
		if a := s.AWS; a != nil {
			o.SASL.AWS = kclient.AWS{AccessKey: a.AccessKey, SecretKey: a.SecretKey, SessionToken: a.SessionToken, CredentialsFile: a.CredentialsFile, Profile: a.Profile}
		}
	}
	return o, true
}
