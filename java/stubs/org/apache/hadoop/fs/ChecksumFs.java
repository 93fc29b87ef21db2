// SPDX-License-Identifier: Apache-2.0
package org.apache.hadoop.fs;

import java.io.IOException;
import java.net.URISyntaxException;

public abstract class ChecksumFs extends AbstractFileSystem {
    public ChecksumFs(AbstractFileSystem raw) throws IOException, URISyntaxException {}
}
